"""What runs may take from an earlier evaluation: baselines and saved states, kept under a digest of what made them."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

from filelock import FileLock

from shopstream.evaluation.plan import Shop

__all__ = ["Cache", "code_digest", "default_cache"]

_SUFFIXES = (".py", ".yml", ".json", ".sql")


def default_cache() -> Path:
    """The user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shopstream" / "evaluation"


def code_digest(packages: Iterable[str]) -> str:
    """Of all source and data files of sub-packages of shopstream: 12 hex digits."""
    digest = hashlib.sha256()
    for package in packages:
        root = Path(str(files("shopstream"))) / package
        for path in sorted([root, *root.rglob("*")]):
            if path.suffix in _SUFFIXES and path.is_file():
                digest.update(path.relative_to(root.parent).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Cache:
    """Folders of one shop, made once.

    Args:
        root: of the whole cache.
        shop: whose.
    """

    def __init__(self, root: Path, shop: Shop) -> None:
        described = hashlib.sha256(repr(shop).encode()).hexdigest()[:12]
        self._folder = root / f"shop-{shop.seed}-{described}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def folder(self, kind: str, digest: str, make: Callable[[Path], None]) -> Path:
        """The folder of that kind; made in a place of its own and moved when it is whole.

        Args:
            kind: word for what it holds; another digest of the same kind is thrown away.
            digest: of everything it was made from.
            make: fills an empty folder.
        """
        target = self._folder / f"{kind}-{digest}"
        with FileLock(self._folder / f"{kind}.lock"):
            if not target.is_dir():
                for old in self._folder.glob(f"{kind}-*"):
                    shutil.rmtree(old)
                part = self._folder / f"part-{kind}"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                make(part)
                part.rename(target)
        return target
