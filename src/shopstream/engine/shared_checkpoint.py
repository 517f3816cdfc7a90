"""Checkpoints that outlive the machine: generations in an object store, the local folder is scratch.

`CURRENT` there names the generation that holds and the *owner*, a number that each `claim` raises. It is only ever
replaced by whoever knows its last version, so a process that another one has taken over from cannot promote any more.
What it stages meanwhile lies in folders of its own and is removed by the next promotion.

A generation that the lake may have decided for is never removed before the lake has decided for another one.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from shopstream.engine.checkpoint import MANIFEST, CheckpointStore, Manifest, parse_manifest
from shopstream.engine.objects import ObjectStore
from shopstream.errors import RetryableError, StateError

__all__ = ["SharedCheckpointStore"]

_CURRENT = "CURRENT"
_FORMAT = 1
_CLAIMS = 10
"""Attempts to become the owner while the one before goes on promoting."""


@dataclass(frozen=True, slots=True)
class _Pointer:
    """What CURRENT says: the newest owner, and the generation that holds (none yet: 0) with the owner who made it."""

    owner: int = 0
    generation: int = 0
    made_by: int = 0

    def content(self) -> bytes:
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()


class SharedCheckpointStore(CheckpointStore):
    """As `CheckpointStore`, in an object store.

    Args:
        folder: on this machine; holds what is being written or was fetched. Nothing in it is the only copy.
        objects: where generations are.

    Raises:
        StateError: the store holds something else, or another format.
    """

    def __init__(self, folder: Path, objects: ObjectStore) -> None:
        super().__init__(folder)
        self._objects = objects
        self._owner = 0
        self._version: str | None = None

    @property
    def owner(self) -> int:
        """The number of this process among the owners; 0 before `claim`."""
        return self._owner

    def claim(self) -> None:
        """Become the owner. From here on nobody who claimed earlier can promote.

        Raises:
            RetryableError: others claim all the time.
        """
        for _ in range(_CLAIMS):
            pointer, version = self._pointer()
            claimed = _Pointer(pointer.owner + 1, pointer.generation, pointer.made_by)
            self._version = self._replace(claimed, version)
            if self._version is not None:
                self._owner = claimed.owner
                return
        raise RetryableError(
            f"{_CLAIMS} attempts to own {self._objects.place} came too late; see who else runs the engine, try again"
        )

    def current(self) -> Manifest | None:
        """The generation that holds; None before the first."""
        pointer, _ = self._pointer()
        if not pointer.generation:
            return None
        manifest = self._manifest(_folder(pointer.generation, pointer.made_by))
        if manifest is None:
            raise StateError(
                f"{self._objects.place} lacks generation {pointer.generation} that CURRENT names; restore it from a "
                "copy"
            )
        return manifest

    def committed_at(self) -> datetime | None:
        """When the current generation came to hold, or its owner changed; None before the first."""
        return self._objects.written_at(_CURRENT)

    def staged(self, mark: int | None = None) -> Manifest | None:
        """A whole generation beyond the current one: the newest, or that of a mark, whoever made it."""
        held = self.current()
        following = held.generation + 1 if held else 1
        found = [
            manifest
            for folder in sorted(self._folders(_folder(following, 0)))
            if (manifest := self._manifest(folder)) and mark in {None, manifest.mark}
        ]
        return found[-1] if found else None

    def secure(self, manifest: Manifest) -> None:
        """Put a staged generation into the store, its manifest last.

        Raises:
            RetryableError: another process has become the owner.
        """
        folder = super()._fetched(manifest)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            self._objects.upload(f"{manifest.folder}/{path.name}", path)
        pointer, _ = self._pointer()
        if pointer.owner != self._owner:
            raise self._lost(pointer)

    def promote(self, manifest: Manifest) -> None:
        """The generation holds from now on; older ones go.

        Raises:
            RetryableError: another process has become the owner; it takes care of the generation.
        """
        version = self._replace(_Pointer(self._owner, manifest.generation, manifest.owner), self._version)
        if version is None:
            raise self._lost(self._pointer()[0])
        self._version = version
        self._keep_only(manifest)
        # Whoever claimed meanwhile writes folders of a higher number: those stay.
        old = [f for f in self._folders("generation-") if f != manifest.folder and _owner_of(f) <= self._owner]
        self._objects.delete([key for folder in old for key in self._objects.keys(f"{folder}/")])

    def discard_staged(self) -> None:
        """Forget on this machine what lies beyond the current generation.

        In the store it stays until the next promotion: its maker may yet have the lake decide for it.
        """
        self._keep_only(self.current())

    def _fetched(self, manifest: Manifest) -> Path:
        folder = super()._fetched(manifest)
        if self._load(folder) == manifest:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        keys = self._objects.keys(f"{manifest.folder}/")
        for key in sorted(keys, key=lambda key: key.endswith(MANIFEST)):
            self._objects.download(key, folder / key.rpartition("/")[2])
        return folder

    def _folders(self, prefix: str) -> set[str]:
        return {key.partition("/")[0] for key in self._objects.keys(prefix)}

    def _manifest(self, folder: str) -> Manifest | None:
        found = self._objects.read(f"{folder}/{MANIFEST}")
        return parse_manifest(found[0], f"{self._objects.place}/{folder}") if found else None

    def _pointer(self) -> tuple[_Pointer, str | None]:
        found = self._objects.read(_CURRENT)
        if found is None:
            return _Pointer(), None
        content, version = found
        try:
            document = json.loads(content)
            if document.pop("format") != _FORMAT:
                raise StateError(f"{self._objects.place} was written by another version; finish its run there")
            return _Pointer(**document), version
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateError(
                f"{self._objects.place}/{_CURRENT} is damaged; write format, owner, generation and made_by of the "
                "newest whole generation into it"
            ) from error

    def _replace(self, pointer: _Pointer, version: str | None) -> str | None:
        """As `ObjectStore.replace`; a write whose answer got lost and that was tried again counts as ours."""
        content = pointer.content()
        written = self._objects.replace(_CURRENT, content, version)
        if (
            written is None
            and (found := self._objects.read(_CURRENT))
            and found[0] == content
            and pointer.owner == self._owner
        ):
            return found[1]
        return written

    def _lost(self, pointer: _Pointer) -> RetryableError:
        return RetryableError(
            f"another process (owner {pointer.owner}) has taken over {self._objects.place} from this one (owner "
            f"{self._owner}); this one ends, and what it did not commit is done by the other"
        )


def _folder(generation: int, owner: int) -> str:
    return Manifest(generation, {}, 0, {}, {}, {}, owner).folder


def _owner_of(folder: str) -> int:
    return int(folder.split("-")[2]) if folder.count("-") > 1 else 0
