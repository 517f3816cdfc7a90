"""Window declarations: what is grouped, over which time, and what is measured.

A declaration is compiled to incremental DuckDB SQL (`engine.operators`), to one plain batch query
(`engine.compile.batch_sql`) and to Flink SQL (`engine.flink`). All give the same rows on the same events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from shopstream.engine.derived_columns import COLUMNS
from shopstream.errors import RuleError


class WindowKind(StrEnum):
    """How time is divided into windows."""

    TUMBLING = "tumbling"
    SLIDING = "sliding"
    SESSION = "session"


_RESERVED = frozenset({"start_ms", "end_ms", "first_event_ms", "last_event_ms", "final"})


@dataclass(frozen=True, slots=True)
class WindowDeclaration:
    """One windowed aggregation.

    Windows are [start, end) in epoch milliseconds of event time. Tumbling and sliding windows start at multiples of the
    slide since the epoch. A session ends `gap_ms` after its last event; an event more than that later opens a new one.
    Events with a null in their key belong to no window.

    Args:
        name: identifier, unique in an engine.
        kind: tumbling, sliding or session.
        size_ms: length (tumbling, sliding).
        slide_ms: distance of window starts (sliding); the size for tumbling windows.
        gap_ms: inactivity that ends a session (session).
        key: event columns or derived ones (see `engine.derived_columns`); empty for the whole site.
        measures: name → SQL aggregate expression over these columns (see `engine.compile`).
        filter: SQL condition on an event; None accepts all.
        condition: SQL condition on measure names; windows that meet it become signals. None accepts all.

    Raises:
        RuleError: the parts contradict each other.
    """

    name: str
    kind: WindowKind
    key: tuple[str, ...]
    measures: Mapping[str, str]
    size_ms: int = 0
    slide_ms: int = 0
    gap_ms: int = 0
    filter: str | None = None
    condition: str | None = None

    def __post_init__(self) -> None:
        """Check the parts."""
        object.__setattr__(self, "measures", MappingProxyType(dict(self.measures)))
        if self.kind is WindowKind.TUMBLING and not self.slide_ms:
            object.__setattr__(self, "slide_ms", self.size_ms)
        self._check_time()
        self._check_names()

    def __deepcopy__(self, memo: object) -> "WindowDeclaration":
        """Itself, as it never changes: copies of a detector share its windows."""
        return self

    def _check_time(self) -> None:
        if self.kind is WindowKind.SESSION:
            if self.gap_ms <= 0 or self.size_ms or self.slide_ms:
                raise RuleError(f"{self.name}: expected a session window with a gap above zero, without size and slide")
            return
        if self.size_ms <= 0 or self.slide_ms <= 0 or self.gap_ms:
            raise RuleError(f"{self.name}: expected a {self.kind} window with size and slide above zero, without a gap")
        if self.size_ms % self.slide_ms:
            raise RuleError(
                f"{self.name}: expected a size that is a whole multiple of the slide, got {self.size_ms} ms by "
                f"{self.slide_ms} ms; otherwise panes would lie only partly in a window"
            )
        if self.kind is WindowKind.TUMBLING and self.slide_ms != self.size_ms:
            raise RuleError(f"{self.name}: a tumbling window has no slide; declare it as sliding, or drop the slide")

    def _check_names(self) -> None:
        if not self.name.isidentifier() or not self.name.isascii():
            raise RuleError(f"{self.name!r} is not a valid window name; use letters, digits and _")
        for column in self.key:
            if column not in COLUMNS:
                raise RuleError(f"{self.name}: expected key columns among {sorted(COLUMNS)}, got {column!r}")
        if not self.measures:
            raise RuleError(f"{self.name}: expected at least one measure, e.g. events: count(*)")
        for measure in self.measures:
            if not measure.isidentifier() or not measure.isascii() or measure in _RESERVED | COLUMNS:
                raise RuleError(
                    f"{self.name}: {measure!r} is not a valid measure name; use letters, digits and _, but no column "
                    f"and none of {sorted(_RESERVED)}"
                )
