"""Checkpoints: stream positions, watermarks, counters and keyed state, saved together.

A generation is a folder: `state.duckdb` (the state tables), a JSON file per document of other state, an Arrow file per
output that waits for the lake, and `manifest.json`, written last: a folder without it is incomplete and ignored.
`CURRENT` names the current generation. A generation after it is *staged*: the lake decides whether it becomes current
(see `pipeline`).

In an object store, `CURRENT` also holds the *owner*, a number that each `claim` increases. Only a process that knows
its last version can replace it, so a process that was taken over can no longer promote. What that process stages
meanwhile lies in folders of its own, which the next promotion removes. A generation that the lake may have chosen is
never removed before the lake has chosen another one.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import ipc

from shopstream.engine.watermark import BEGINNING
from shopstream.errors import RetryableError, StateError


class ObjectStore(Protocol):
    """Objects under one prefix, by key, with atomic writes that all readers see at once.

    All methods raise RetryableError if the store is unreachable, ConfigurationError if it denies permission.
    """

    @property
    def place(self) -> str:
        """Its address, for messages."""
        ...

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of a small object; None if it does not exist."""
        ...

    def written_at(self, key: str) -> datetime | None:
        """Time of its last write; None if it does not exist."""
        ...

    def replace(self, key: str, content: bytes, version: str | None) -> str | None:
        """Write a small object if it still has this version (None: if it does not exist).

        Returns its new version; None if another process wrote it, and nothing was changed.
        """
        ...

    def write(self, key: str, content: bytes) -> None:
        """Write a small object unconditionally."""
        ...

    def upload(self, key: str, path: Path) -> None:
        """Upload a file of any size."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Download a file of any size.

        Raises:
            StateError: it does not exist.
        """
        ...

    def keys(self, prefix: str) -> list[str]:
        """Keys that begin with the prefix, in order."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; missing ones are ignored."""
        ...


_FORMAT = 1
_PREFIX = "generation-"
MANIFEST = "manifest.json"
_OWNER_SHIFT = 32


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of a generation besides its tables.

    Args:
        generation: number, from 1.
        positions: shard id → last sequence number read.
        watermark_ms: the engine's watermark.
        newest_ms: shard id → newest event time.
        counters: name → count since the beginning.
        tables: state table → digest of its declaration.
        owner: number of the owner of a shared store (`SharedCheckpointStore.claim`); 0 in a local folder.
        ended: closed shards that were read to their end.
        history_ms: newest event of a history without live events after it yet, see `watermark.GoingLive`.
    """

    generation: int
    positions: Mapping[str, int]
    watermark_ms: int
    newest_ms: Mapping[str, int]
    counters: Mapping[str, int]
    tables: Mapping[str, str]
    owner: int = 0
    ended: Sequence[str] = ()
    history_ms: int = BEGINNING

    @property
    def mark(self) -> int:
        """Owner and generation in one number, for the lake; later checkpoints have larger ones."""
        return mark_of(self.owner, self.generation)

    @property
    def folder(self) -> str:
        """Name of its folder; two owners never write to the same one."""
        return f"{_PREFIX}{self.generation:010d}" + (f"-{self.owner:06d}" if self.owner else "")


def mark_of(owner: int, generation: int) -> int:
    """See `Manifest.mark`."""
    return owner << _OWNER_SHIFT | generation


def describe_mark(mark: int | None) -> str:
    """A mark for people."""
    if not mark:
        return "none"
    owner, generation = divmod(mark, 1 << _OWNER_SHIFT)
    return f"{generation} of owner {owner}" if owner else str(generation)


def sync(path: Path) -> None:
    """Force a file, or the names inside a folder, to the disk, to survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parse_manifest(text: bytes, place: str) -> Manifest:
    """Parse a manifest file.

    Raises:
        StateError: it is damaged, or of another format.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise StateError(f"{place}/{MANIFEST} is damaged ({error}); restore it, or remove the checkpoints") from error
    if document.pop("format", None) != _FORMAT:
        raise StateError(
            f"{place} was written by another version; finish its run with that version, or remove the checkpoints"
        )
    return Manifest(**document | {"ended": tuple(document.get("ended", ()))})


class CheckpointStore:
    """Generations in a local folder.

    Raises:
        StateError: the folder has other content, or another format.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def owner(self) -> int:
        """Owner in this process's manifests."""
        return 0

    def claim(self) -> None:
        """Become the owner; a local folder belongs to the process with the engine's lock."""

    def secure(self, manifest: Manifest) -> None:
        """Make a staged generation durable; a local folder already is."""

    def _path(self, generation: int) -> Path:
        return self._folder / f"{_PREFIX}{generation:010d}"

    def _load(self, folder: Path) -> Manifest | None:
        try:
            text = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        return parse_manifest(text, str(folder))

    def current(self) -> Manifest | None:
        """The current generation; None before the first."""
        try:
            generation = int((self._folder / "CURRENT").read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StateError(
                f"{self._folder}/CURRENT is damaged; write the newest generation's number into it"
            ) from error
        manifest = self._load(self._path(generation))
        if manifest is None:
            raise StateError(f"{self._folder} lacks generation {generation} that CURRENT names; restore it from a copy")
        return manifest

    def committed_at(self) -> datetime | None:
        """When the current generation was promoted; None before the first."""
        try:
            return datetime.fromtimestamp((self._folder / "CURRENT").stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def staged(self, mark: int | None = None) -> Manifest | None:
        """The complete generation after the current one, if any; with `mark`, only that one."""
        held = self.current()
        following = held.generation + 1 if held else 1
        found = self._load(self._path(following))
        return found if found and mark in {None, found.mark} else None

    def stage(
        self,
        manifest: Manifest,
        write_state: Callable[[Path], None],
        outputs: Mapping[str, pa.Table],
        documents: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        """Write a generation.

        Args:
            manifest: its positions and contents.
            write_state: receives the path of a DuckDB file to write.
            outputs: rows that wait for the lake, by name.
            documents: other state by name, JSON-ready.
        """
        folder = self._folder / manifest.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_state(folder / "state.duckdb")
        sync(folder / "state.duckdb")
        for name, document in (documents or {}).items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(document), encoding="utf-8")
            sync(path)
        for name, rows in outputs.items():
            path = folder / f"{name}.arrow"
            with path.open("wb") as file, ipc.new_file(file, rows.schema) as writer:
                writer.write_table(rows)
            sync(path)
        path = folder / MANIFEST
        temporary = folder / "manifest.tmp"
        temporary.write_text(json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1))
        sync(temporary)
        temporary.rename(path)
        sync(folder)
        sync(self._folder)

    def output(self, manifest: Manifest, name: str) -> pa.Table:
        """Rows that wait for the lake."""
        with ipc.open_file(self._fetched(manifest) / f"{name}.arrow") as reader:
            return reader.read_all()

    def document(self, manifest: Manifest, name: str) -> dict[str, object] | None:
        """Other state; None if the generation has no document of that name.

        Raises:
            StateError: it is damaged.
        """
        path = self._fetched(manifest) / f"{name}.json"
        try:
            document: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StateError(f"{path} is damaged ({error}); restore it or remove {self._folder}") from error
        return document

    def state_file(self, manifest: Manifest) -> Path:
        """The DuckDB file of a generation."""
        return self._fetched(manifest) / "state.duckdb"

    def _fetched(self, manifest: Manifest) -> Path:
        return self._folder / manifest.folder

    def promote(self, manifest: Manifest) -> None:
        """Make the generation current, and remove older ones."""
        temporary = self._folder / "CURRENT.tmp"
        temporary.write_text(str(manifest.generation))
        sync(temporary)
        temporary.rename(self._folder / "CURRENT")
        sync(self._folder)
        self._keep_only(manifest)

    def discard_staged(self) -> None:
        """Remove all but the current generation."""
        self._keep_only(self.current())

    def _keep_only(self, manifest: Manifest | None) -> None:
        keep = self._folder / manifest.folder if manifest else None
        for path in self._folder.glob(f"{_PREFIX}*"):
            if path != keep:
                shutil.rmtree(path)


_CURRENT = "CURRENT"

_CLAIMS = 10
"""Attempts to become the owner while another process promotes."""


@dataclass(frozen=True, slots=True)
class _Pointer:
    """Content of CURRENT: the newest owner, the current generation (0: none) and that generation's owner."""

    owner: int = 0
    generation: int = 0
    made_by: int = 0

    def content(self) -> bytes:
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()


class SharedCheckpointStore(CheckpointStore):
    """Generations in an object store; see the module.

    Args:
        folder: local scratch space; it never has the only copy of anything.
        objects: holds the generations.

    Raises:
        StateError: the store has other content, or another format.
    """

    def __init__(self, folder: Path, objects: ObjectStore) -> None:
        super().__init__(folder)
        self._objects = objects
        self._owner = 0
        self._version: str | None = None

    @property
    def owner(self) -> int:
        """This process's number as an owner; 0 before `claim`."""
        return self._owner

    def claim(self) -> None:
        """Become the owner: earlier owners can no longer promote.

        Raises:
            RetryableError: other processes kept claiming.
        """
        for _ in range(_CLAIMS):
            pointer, version = self._pointer()
            claimed = _Pointer(pointer.owner + 1, pointer.generation, pointer.made_by)
            self._version = self._replace(claimed, version)
            if self._version is not None:
                self._owner = claimed.owner
                return
        raise RetryableError(
            f"{_CLAIMS} attempts to own {self._objects.place} failed; check who else runs the engine, then try again"
        )

    def current(self) -> Manifest | None:
        """The current generation; None before the first."""
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
        """When the current generation was promoted or its owner changed; None before the first."""
        return self._objects.written_at(_CURRENT)

    def staged(self, mark: int | None = None) -> Manifest | None:
        """The newest complete generation after the current one, of any owner; with `mark`, only that one."""
        held = self.current()
        following = held.generation + 1 if held else 1
        found = [
            manifest
            for folder in sorted(self._folders(_folder(following, 0)))
            if (manifest := self._manifest(folder)) and mark in {None, manifest.mark}
        ]
        return found[-1] if found else None

    def secure(self, manifest: Manifest) -> None:
        """Upload a staged generation, its manifest last.

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
        """Make the generation current, and remove older ones.

        Raises:
            RetryableError: another process has become the owner, and handles the generation.
        """
        version = self._replace(_Pointer(self._owner, manifest.generation, manifest.owner), self._version)
        if version is None:
            raise self._lost(self._pointer()[0])
        self._version = version
        self._keep_only(manifest)
        # A newer owner writes folders with a higher number: those stay.
        old = [f for f in self._folders("generation-") if f != manifest.folder and _owner_of(f) <= self._owner]
        self._objects.delete([key for folder in old for key in self._objects.keys(f"{folder}/")])

    def discard_staged(self) -> None:
        """Remove the local copies of all but the current generation.

        The store keeps them until the next promotion: the lake may still choose one.
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
        """Like `ObjectStore.replace`; a retried write whose first answer was lost counts as ours."""
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
            f"{self._owner}); this process stops, and the other one does what is not committed"
        )


def _folder(generation: int, owner: int) -> str:
    return Manifest(generation, {}, 0, {}, {}, {}, owner).folder


def _owner_of(folder: str) -> int:
    return int(folder.split("-")[2]) if folder.count("-") > 1 else 0
