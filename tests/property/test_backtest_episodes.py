"""A backtest counts the incidents that the algebra of episodes gives."""

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_detection
from shopstream.incidents.episode import gather
from shopstream.ruletools.backtest import episodes_sql

QUIET_MS = 5_000

window = st.tuples(st.integers(1, 2), st.integers(0, 60), st.integers(1, 8)).map(
    lambda drawn: (drawn[0], drawn[1] * 1_000, (drawn[1] + drawn[2]) * 1_000)
)


def detection(user, start_ms, end_ms):
    return make_detection(
        start_ms,
        {"user_id": str(user)},
        end_ms=end_ms,
        first_event_ms=start_ms + 100,
        last_event_ms=end_ms - 100,
        suppress_for_ms=QUIET_MS,
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(window, max_size=30, unique_by=lambda drawn: drawn[:2]))
def test_incidents_in_sql_equal_the_episodes(windows):
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE w (user_id BIGINT, start_ms BIGINT, end_ms BIGINT)")
        if windows:
            connection.executemany("INSERT INTO w VALUES (?, ?, ?)", windows)
        source = "(SELECT *, start_ms + 100 AS first_event_ms, end_ms - 100 AS last_event_ms FROM w)"
        counted = connection.execute(episodes_sql(source, ["user_id"], QUIET_MS)).fetchall()
    expected = [
        (user, e.start_ms, e.end_ms, e.first_event_ms, e.last_event_ms, e.detected_ms, e.windows)
        for user in (1, 2)
        for e in gather([detection(*one) for one in windows if one[0] == user])
    ]
    assert sorted(counted) == sorted(expected)
