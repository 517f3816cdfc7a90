"""The windowed counts that every engine computes; all peers import it, so it only uses the standard library."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """One windowed count: `SELECT window, key, count(*) … HAVING count(*) > more_than`.

    Args:
        name: also the folder of its output.
        size_ms, slide_ms: the window; tumbling where they are equal.
        key: column, None for the whole site.
        more_than: what the count must exceed.
    """

    name: str
    size_ms: int
    slide_ms: int
    key: str | None
    more_than: int

    @property
    def words(self) -> str:
        """Label for tables."""
        what = f"events per {self.key}" if self.key else "events of the whole site"
        kind = "tumbling" if self.size_ms == self.slide_ms else f"sliding by {self.slide_ms // 1000} s"
        above = f", more than {self.more_than}" if self.more_than else ""
        return f"{what}, {self.size_ms // 1000} s {kind}{above}"


RULES = (
    Window("user_burst", 10_000, 1_000, "user_id", 15),
    Window("site_rate", 10_000, 1_000, None, 450),
)
"""The windows of two shipped rules; `ours.check_rules` compares them with the rule files."""

CLASSIC = (
    Window("user_tumbling", 10_000, 10_000, "user_id", 5),
    Window("user_minute", 60_000, 10_000, "user_id", 12),
    Window("type_minute", 60_000, 60_000, "event_type", 0),
)
"""Windows of published pipelines of this kind; for shopstream they are in `rules-classic/`."""

WINDOWS = {"rules": RULES, "classic": CLASSIC}


def batch_sql(window: Window, source: str) -> str:
    """One SQL query (DuckDB) over all events: window_start in epoch ms, key as text, n.

    A key that passes in any window passes in the one that ends with the pane of one of its events; only such keys are
    expanded to all their windows.
    """
    key = window.key or "0"
    panes = window.size_ms // window.slide_ms
    counted = f"""
        WITH panes AS (
            SELECT {key} AS key, epoch_ms(event_time) // {window.slide_ms} AS pane, count(*) AS n
            FROM {source} GROUP BY ALL
        )"""
    if panes == 1:
        return f"""{counted}
        SELECT pane * {window.slide_ms} AS window_start, key::VARCHAR AS key, n
        FROM panes WHERE n > {window.more_than}"""
    return f"""{counted}, passing AS (
            SELECT DISTINCT key FROM (
                SELECT key, sum(n) OVER (
                    PARTITION BY key ORDER BY pane RANGE BETWEEN {panes - 1} PRECEDING AND CURRENT ROW
                ) AS total FROM panes
            ) WHERE total > {window.more_than}
        )
        SELECT (pane - back) * {window.slide_ms} AS window_start, key::VARCHAR AS key, sum(n)::BIGINT AS n
        FROM panes SEMI JOIN passing USING (key), range({panes}) AS shift(back)
        GROUP BY ALL HAVING sum(n) > {window.more_than}"""
