"""The embedded profile: all data is in `home`, in one process."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shopstream.adapters.ports import Adapters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shopstream.adapters.checks import Check
    from shopstream.dashboard.sources import DataHome
    from shopstream.engine.checkpoint import CheckpointStore, Manifest
    from shopstream.incidents.ports import IncidentStore
    from shopstream.journeys.store import LiveStore
    from shopstream.lakehouse.embedded import EmbeddedLakehouse
    from shopstream.lakehouse.ports import LakeReader
    from shopstream.stream.embedded import EmbeddedStream


class EmbeddedAdapters(Adapters):
    """Files and SQLite databases in `home`; see `Adapters`."""

    @property
    def replay_ledger(self) -> Path:
        """Beside the tables of the lake."""
        return self.settings.lake_path

    def open_stream(self) -> EmbeddedStream:
        """The durable log in `home`."""
        from shopstream.stream.embedded import EmbeddedStream

        self.settings.home.mkdir(parents=True, exist_ok=True)
        return EmbeddedStream.open(self.settings.stream_path, self.settings.stream, self.clock)

    def has_stream(self) -> bool:
        """Whether its file exists."""
        return self.settings.stream_path.exists()

    def open_lakehouse(self) -> EmbeddedLakehouse:
        """Iceberg tables in `home`, with a SQLite catalog."""
        from shopstream.lakehouse.embedded import EmbeddedLakehouse

        return EmbeddedLakehouse(self.settings.lake_path, self.settings.lakehouse)

    @contextmanager
    def open_lake_reader(self) -> Iterator[LakeReader]:
        """Reads the SQLite catalog itself."""
        from shopstream.lakehouse.reader import LocalLakeReader

        yield LocalLakeReader(self.settings.lake_path)

    def has_lake(self) -> bool:
        """Whether its folder exists."""
        return self.settings.lake_path.exists()

    def reports_file(self) -> Path:
        """The file that `shopstream build` writes."""
        return self.settings.reports_path

    def open_incidents(self) -> IncidentStore:
        """SQLite in `home`."""
        from shopstream.incidents.embedded import EmbeddedIncidentStore

        return EmbeddedIncidentStore(self.settings.incidents_path, self.clock)

    def open_live(self) -> LiveStore:
        """SQLite in `home`."""
        from shopstream.journeys.store import LiveFile

        return LiveFile(self.settings.live_path)

    def open_checkpoints(self) -> CheckpointStore:
        """Files in `home`."""
        from shopstream.engine.checkpoint import CheckpointStore

        return CheckpointStore(self.settings.checkpoint_path)

    def last_checkpoint(self) -> Manifest | None:
        """The current checkpoint, without creating the store."""
        return super().last_checkpoint() if self.settings.checkpoint_path.exists() else None

    def dashboard_home(self) -> DataHome:
        """The files of `home`."""
        from shopstream.dashboard.sources import DataHome

        return DataHome.at(self.settings.home)

    def checks(self) -> dict[str, Check]:
        """Rules, files and free space."""
        from shopstream.adapters.checks import COMMON_CHECKS, EMBEDDED_CHECKS

        return COMMON_CHECKS | EMBEDDED_CHECKS
