"""Rule tests: events in, expected incidents out, and harmless events that the rule must ignore.

A test is a folder `<id>/` with `events.csv` (columns as in any file of events) and `expected.yml`:

    incidents:
      - keys: {user_id: "1001"}
        first_event_time: 2026-03-02T10:00:06Z
        last_event_time: 2026-03-02T10:00:12Z
        detected_at_event_time: 2026-03-02T10:00:12Z
        windows: 6
        peak: {events: 20}
    innocent:
      - why: exactly on the line, 15 events in 10 seconds
        keys: {user_id: 2002}
        from: 2026-03-02T10:08:20Z
        until: 2026-03-02T10:08:29Z
        events: 15

The rule runs as a batch query, which gives the same windows as the stream. They become detections and episodes in the
same way as for incidents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import duckdb
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shopstream.clock import from_ms, to_ms
from shopstream.detection.rule import Rule, RuleStatus
from shopstream.detection.rule_matcher import detect
from shopstream.detection.wording import describe_key, describe_measures
from shopstream.engine.compile import batch_sql
from shopstream.engine.derived_columns import derived_rows
from shopstream.engine.signals import Signal
from shopstream.errors import ConfigurationError
from shopstream.events.codec import decode
from shopstream.incidents.episode import Episode, gather
from shopstream.yaml_files import YamlFiles

_EVENTS = "events.csv"
_MAX_EVENTS_BYTES = 64 << 20
_SPANS = ("start_ms", "end_ms", "first_event_ms", "last_event_ms")


def _moment(value: object) -> object:
    """Times without zone are UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    raise ValueError(f"expected a time such as 2026-03-02T10:00:06Z, got {value!r}")


def _texts(value: object) -> object:
    return {key: str(one) for key, one in value.items()} if isinstance(value, Mapping) else value


Moment = Annotated[datetime, BeforeValidator(_moment)]
Keys = Annotated[dict[str, str], BeforeValidator(_texts)]
_STRICT = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ExpectedIncident(BaseModel):
    """An expected or a found incident."""

    model_config = _STRICT

    keys: Keys
    first_event_time: Moment
    last_event_time: Moment
    detected_at_event_time: Moment
    windows: int
    peak: dict[str, object]

    def line(self) -> str:
        """The incident in one line."""
        who = describe_key(self.keys)
        peak = describe_measures(self.peak)
        return (
            f"{who}: {self.first_event_time:%Y-%m-%d %H:%M:%S} to {self.last_event_time:%H:%M:%S}, detected "
            f"{self.detected_at_event_time:%H:%M:%S}, {self.windows} windows, peak {peak}"
        )


class Innocent(BaseModel):
    """Events that look like an attack, and why they are harmless."""

    model_config = _STRICT

    why: Annotated[str, Field(min_length=1)]
    keys: Keys
    start: Annotated[Moment, Field(alias="from")]
    until: Moment
    events: Annotated[int, Field(ge=1)]


class _File(BaseModel):
    model_config = _STRICT

    incidents: tuple[ExpectedIncident, ...]
    innocent: Annotated[tuple[Innocent, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class RuleTest:
    """A test from its folder, with decoded events."""

    folder: Path
    events: pa.Table
    incidents: Sequence[ExpectedIncident]
    innocent: Sequence[Innocent]


@dataclass(frozen=True, slots=True)
class RuleTestResult:
    """The result of a test.

    Args:
        rule: id of the rule.
        found: found incidents, by time.
        missing: expected incidents that were not found exactly so.
        unexpected: found incidents that were not expected exactly so.
        wrongly_detected: harmless events inside a found incident.
        absent: harmless events whose number in the file differs, with that number.
    """

    rule: str
    found: Sequence[ExpectedIncident]
    missing: Sequence[ExpectedIncident]
    unexpected: Sequence[ExpectedIncident]
    wrongly_detected: Sequence[Innocent]
    absent: Sequence[tuple[Innocent, int]]

    @property
    def passed(self) -> bool:
        """Whether everything is as expected."""
        return not (self.missing or self.unexpected or self.wrongly_detected or self.absent)


_EXPECTED_FILES = YamlFiles("rule test", lambda document: document.validate(_File, {}), "incidents: and innocent:")


def read_test(folder: Path) -> RuleTest:
    """Read a test.

    Raises:
        ConfigurationError: a file is missing or wrong; names file, line and remedy.
    """
    (file,) = _EXPECTED_FILES.load(folder / "expected.yml").values()
    events = folder / _EVENTS
    # Arrival years after any event, so that no event is in the future.
    decoded = decode([_bytes(events)], [to_ms(datetime(2100, 1, 1, tzinfo=UTC))])
    if decoded.rejects.num_rows:
        first = decoded.rejects.slice(0, 1).to_pylist()[0]
        raise ConfigurationError(
            f"{events}: expected events only, got {decoded.rejects.num_rows} invalid rows; "
            f"row {first['place'] + 1}: {first['detail']}"
        )
    return RuleTest(folder, decoded.events, file.incidents, file.innocent)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            content = handle.read(_MAX_EVENTS_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"expected a rule's test in {path.parent} ({_EVENTS} and expected.yml), {path.name}: {error.strerror}"
        ) from error
    if len(content) > _MAX_EVENTS_BYTES:
        raise ConfigurationError(f"expected at most {_MAX_EVENTS_BYTES} bytes in {path}; a test needs few events")
    return content


def signals_of(rule: Rule, connection: duckdb.DuckDBPyConnection, source: str) -> list[Signal]:
    """The rule's closed windows over a table of events."""
    cursor = connection.execute(batch_sql(rule.window_declaration(), source))
    names = [column[0] for column in cursor.description or []]
    return [
        Signal(
            window=rule.id,
            key={column: row[column] for column in rule.key},
            measures={name: row[name] for name in rule.measures},
            final=True,
            **{name: row[name] for name in _SPANS},
        )
        for row in (dict(zip(names, values, strict=True)) for values in cursor.fetchall())
    ]


def run_rule_test(rule: Rule, test: RuleTest) -> RuleTestResult:
    """Run a rule over the events of its test."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("test_events", test.events)
        found = _incidents(rule, signals_of(rule, connection, "test_events"))
        counts = [_events_of(innocent, connection) for innocent in test.innocent]
    return RuleTestResult(
        rule=rule.id,
        found=found,
        missing=[one for one in test.incidents if one not in found],
        unexpected=[one for one in found if one not in test.incidents],
        wrongly_detected=[innocent for innocent in test.innocent if any(_is_about(one, innocent) for one in found)],
        absent=[
            (innocent, count) for innocent, count in zip(test.innocent, counts, strict=True) if count != innocent.events
        ],
    )


def _incidents(rule: Rule, signals: Sequence[Signal]) -> list[ExpectedIncident]:
    enabled = rule if rule.enabled else rule.model_copy(update={"status": RuleStatus.TEST})
    by_key: dict[tuple[tuple[str, str], ...], list] = {}  # type: ignore[type-arg]
    for detection in detect(signals, {rule.id: enabled}):
        by_key.setdefault(tuple(detection.key.items()), []).append(detection)
    found = [_incident(dict(key), episode) for key, group in by_key.items() for episode in gather(group)]
    return sorted(found, key=lambda one: (one.first_event_time, sorted(one.keys.items())))


def _incident(keys: Mapping[str, str], episode: Episode) -> ExpectedIncident:
    if episode.detected_ms is None or episode.peak is None:
        raise TypeError("expected an episode of closed windows")
    return ExpectedIncident(
        keys=dict(keys),
        first_event_time=from_ms(episode.first_event_ms),
        last_event_time=from_ms(episode.last_event_ms),
        detected_at_event_time=from_ms(episode.detected_ms),
        windows=episode.windows,
        peak=dict(episode.peak.measures),
    )


def _events_of(innocent: Innocent, connection: duckdb.DuckDBPyConnection) -> int:
    columns = tuple(innocent.keys)
    met = " AND ".join([*(f'CAST("{column}" AS VARCHAR) = ?' for column in columns), "event_time BETWEEN ? AND ?"])
    values = [*innocent.keys.values(), innocent.start, innocent.until]
    rows = derived_rows("test_events", columns)
    return int(connection.execute(f"SELECT count(*) FROM ({rows}) WHERE {met}", values).fetchall()[0][0])


def _is_about(one: ExpectedIncident, innocent: Innocent) -> bool:
    same = all(one.keys.get(column, value) == value for column, value in innocent.keys.items())
    named = bool(innocent.keys.keys() & one.keys.keys()) or not (innocent.keys or one.keys)
    return same and named and one.first_event_time <= innocent.until and innocent.start <= one.last_event_time
