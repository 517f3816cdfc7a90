"""The token that lets a person in: made once, readable by its owner alone."""

import os
import secrets
from pathlib import Path

from shopstream.errors import StateError

__all__ = ["load_token"]

_BYTES = 32
_FEWEST_CHARACTERS = 32


def load_token(path: Path) -> str:
    """The token of this home; made where there is none.

    Raises:
        StateError: others can read the file, or it is cut short.
    """
    if not path.exists():
        _make(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise StateError(
            f"expected that only its owner can read {path}, others can too; remove it, the next start makes a new one"
        )
    token = path.read_text().strip()
    if len(token) < _FEWEST_CHARACTERS:
        raise StateError(
            f"expected a token of at least {_FEWEST_CHARACTERS} characters in {path}, got {len(token)}; "
            "remove it, and the next start makes a new one"
        )
    return token


def _make(path: Path) -> None:
    """Write it aside and link it: nobody ever sees it empty, and of two that start at once one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(_BYTES) + "\n")
        draft.replace(path) if os.name == "nt" else _link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:  # another process was first; its token is as good
        return
