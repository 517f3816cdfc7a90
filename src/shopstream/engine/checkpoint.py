"""Checkpoints: stream positions, watermarks, counters and keyed state, saved together.

A generation is a folder: `state.duckdb` (the state tables), one JSON file for each document of further state, one Arrow
file for each output that waits for the lake, and `manifest.json`, written last: a folder without it was cut short and
means nothing. `CURRENT` names the generation that holds. A generation beyond it is *staged*: whether it holds is
decided by the lake (see `pipeline`).
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from shopstream.engine.watermark import BEGINNING
from shopstream.errors import StateError

__all__ = ["MANIFEST", "CheckpointStore", "Manifest", "parse_manifest", "shown"]

_FORMAT = 1
_PREFIX = "generation-"
MANIFEST = "manifest.json"
_OWNER_SHIFT = 32


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation holds besides its tables.

    Args:
        generation: counts up from 1.
        positions: shard id → last sequence number taken.
        watermark_ms: the engine's watermark.
        newest_ms: shard id → newest event time seen.
        counters: name → events since the beginning.
        tables: state table → digest of the declaration it serves.
        owner: counts those who held a shared store one after the other (`SharedCheckpointStore.claim`); 0 in a folder
            of one machine.
        ended: closed shards that were read to their end, with `positions`.
        history_ms: newest event of a history after which no live event is told of yet, see `watermark.GoingLive`.
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
        """One number for owner and generation, by which the lake names it; a later checkpoint's is larger."""
        return self.owner << _OWNER_SHIFT | self.generation

    @property
    def folder(self) -> str:
        """Where it lies; two owners never write to one folder."""
        return f"{_PREFIX}{self.generation:010d}" + (f"-{self.owner:06d}" if self.owner else "")


def shown(mark: int | None) -> str:
    """A mark in an error message."""
    if not mark:
        return "none"
    owner, generation = divmod(mark, 1 << _OWNER_SHIFT)
    return f"{generation} of owner {owner}" if owner else str(generation)


def _sync_folder(folder: Path) -> None:
    """Make renames and new names inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def parse_manifest(text: bytes, place: str) -> Manifest:
    """A manifest's file.

    Raises:
        StateError: it is damaged, or of another format.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise StateError(f"{place}/{MANIFEST} is damaged ({error}); restore it or remove the checkpoints") from error
    if document.pop("format", None) != _FORMAT:
        raise StateError(f"{place} was written by another version; finish its run there, or remove the checkpoints")
    return Manifest(**document | {"ended": tuple(document.get("ended", ()))})


class CheckpointStore:
    """Generations in a folder.

    Raises:
        StateError: the folder holds something else, or another format.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def owner(self) -> int:
        """Goes into the manifests that this process makes."""
        return 0

    def claim(self) -> None:
        """Become the one who writes here; a folder's owner is whoever holds the engine's lock."""

    def secure(self, manifest: Manifest) -> None:
        """Make a staged generation outlive this machine; a folder has it on its disk already."""

    def _path(self, generation: int) -> Path:
        return self._folder / f"{_PREFIX}{generation:010d}"

    def _load(self, folder: Path) -> Manifest | None:
        try:
            text = (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        return parse_manifest(text, str(folder))

    def current(self) -> Manifest | None:
        """The generation that holds; None before the first."""
        try:
            generation = int((self._folder / "CURRENT").read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StateError(
                f"{self._folder}/CURRENT is damaged; write the newest generation's number in it"
            ) from error
        manifest = self._load(self._path(generation))
        if manifest is None:
            raise StateError(f"{self._folder} lacks generation {generation} that CURRENT names; restore it from a copy")
        return manifest

    def committed_at(self) -> datetime | None:
        """When the current generation came to hold; None before the first."""
        try:
            return datetime.fromtimestamp((self._folder / "CURRENT").stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def staged(self, mark: int | None = None) -> Manifest | None:
        """A whole generation beyond the current one (with `mark`: of that mark); None when there is none."""
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
            manifest: its positions and what it holds.
            write_state: gets the path of a DuckDB file to make.
            outputs: rows that wait for the lake, by name.
            documents: further state, by name; JSON-ready.
        """
        folder = self._folder / manifest.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_state(folder / "state.duckdb")
        _sync_file(folder / "state.duckdb")
        for name, document in (documents or {}).items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(document), encoding="utf-8")
            _sync_file(path)
        for name, rows in outputs.items():
            path = folder / f"{name}.arrow"
            with path.open("wb") as file, ipc.new_file(file, rows.schema) as writer:
                writer.write_table(rows)
            _sync_file(path)
        path = folder / MANIFEST
        temporary = folder / "manifest.tmp"
        temporary.write_text(json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=1))
        _sync_file(temporary)
        temporary.rename(path)
        _sync_folder(folder)
        _sync_folder(self._folder)

    def output(self, manifest: Manifest, name: str) -> pa.Table:
        """Rows that wait for the lake."""
        with ipc.open_file(self._fetched(manifest) / f"{name}.arrow") as reader:
            return reader.read_all()

    def document(self, manifest: Manifest, name: str) -> dict[str, object] | None:
        """Further state; None where the generation has none of that name.

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
        """The generation holds from now on; older ones go."""
        temporary = self._folder / "CURRENT.tmp"
        temporary.write_text(str(manifest.generation))
        _sync_file(temporary)
        temporary.rename(self._folder / "CURRENT")
        _sync_folder(self._folder)
        self._keep_only(manifest)

    def discard_staged(self) -> None:
        """Drop whatever lies beyond the current generation."""
        self._keep_only(self.current())

    def _keep_only(self, manifest: Manifest | None) -> None:
        keep = self._folder / manifest.folder if manifest else None
        for path in self._folder.glob(f"{_PREFIX}*"):
            if path != keep:
                shutil.rmtree(path)
