"""The working copy itself breaks: an error that says so, which nobody takes for one of what was to be written."""

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from shopstream.clock import ManualClock
from shopstream.errors import StateError
from shopstream.incidents.replica import Replica
from shopstream.incidents.single_table import episode_key, last_key, scope_pk

SCOPE = "0123456789abcdef"


class OneEpisode:
    """A table with one episode."""

    def get(self, keys):
        return {key: {"scope": SCOPE, "item": "last"} for key in keys if key == last_key(SCOPE)}

    def query(self, pk, **_):
        assert pk == scope_pk(SCOPE)
        pk, sk = episode_key(SCOPE, 1)
        yield {"pk": pk, "sk": sk, "item": "episode", "incident": f"{SCOPE}-1", "chain": "c", "closes_ms": 9}


@pytest.mark.parametrize("lost", ["marks", "incidents"])
def test_a_damaged_copy_is_told_as_one_when_episodes_are_fetched(tmp_path, lost):
    path = tmp_path / "copy.db"
    replica = Replica(
        OneEpisode(), path, ManualClock(0), complete=False, retention=timedelta(1), slack=timedelta(minutes=1)
    )
    with closing(replica), closing(sqlite3.connect(path)) as other:
        other.execute(f"DROP TABLE {lost}")
        with pytest.raises(StateError, match=r"copy\.db is no incident store, or damaged \(no such table"):
            replica.fetch({SCOPE: 0})
