"""Applies detections of some users to incidents on DynamoDB, one by one, as one of several processes.

Usage: incident_process.py TABLE COPY FIRST LAST. Users are FIRST up to but not LAST.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from recovery.incident_writer import SETTINGS, TARGETS, detection
from shopstream.clock import SystemClock
from shopstream.incidents.aws import DynamoIncidentStore
from shopstream.incidents.settings import DynamoSettings


def main(table: str, copy: Path, first: int, last: int) -> None:
    place = DynamoSettings(table=table)
    store = DynamoIncidentStore(SETTINGS, place, SystemClock(), TARGETS, working_copy=copy)
    for start_ms in range(0, 10_000, 1_000):
        for user in range(first, last):
            key = {"user_id": str(user)}
            store.apply([detection("user_burst", "owasp.oat-011", key, start_ms, final=True)[1]], 0)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
