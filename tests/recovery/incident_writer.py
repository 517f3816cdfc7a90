"""Applies a fixed stream of detections to an incident store, batch by batch; is killed by the test, and goes on.

Usage: incident_writer.py DATABASE PLACE SEED. PLACE holds how far the last "checkpoint" has come; it is written less
often than batches are applied, so every start applies some detections again, cut into other batches.
"""

import random
import sys
from pathlib import Path

from shopstream.alerting import AlertingSettings, EmbeddedIncidentStore
from shopstream.clock import SystemClock
from shopstream.detection import Detection, Severity

QUIET, SIZE, END = 20_000, 10_000, 2_000_000
TARGETS = ("json-a", "slack-b")


def detections():
    """Bursts of twenty actors, as early and final detections in the order an engine gives them."""
    draw = random.Random(11)  # noqa: S311  no secret
    found = []
    for user in range(20):
        start = draw.randrange(60) * 1_000
        while start < END - 100_000:
            for place in range(draw.randrange(1, 8)):
                found += [detection(user, start + place * 1_000, final) for final in (False, True)]
            start += draw.randrange(15, 120) * 1_000
    return sorted(found, key=lambda item: (item[0], item[1].detection_id, item[1].final))


def detection(user, start_ms, final):
    made = Detection(
        detection_id=f"{user}-{start_ms}",
        rule_id="user_burst",
        rule_version="v1",
        title="Too fast",
        severity=Severity.HIGH,
        tags=("owasp.oat-011",),
        key_kind="user_id",
        key={"user_id": str(user)},
        start_ms=start_ms,
        end_ms=start_ms + SIZE,
        first_event_ms=start_ms + 10,
        last_event_ms=start_ms + SIZE - (10 if final else 3_000),
        measures={"events": 16 + (start_ms // 1_000) % 9 + (3 if final else 0)},
        threshold="events > 15",
        final=final,
        suppress_for_ms=QUIET,
    )
    return (start_ms + SIZE if final else start_ms + SIZE - 3_000), made


def main(database: Path, place_file: Path, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311  no secret
    stream = detections()
    place = int(place_file.read_text()) if place_file.exists() else 0
    store = EmbeddedIncidentStore(database, AlertingSettings(), SystemClock(), TARGETS)
    print("ready", flush=True)  # noqa: T201  the test waits for it
    while place < len(stream):
        until = min(len(stream), place + draw.randrange(1, 40))
        moment = stream[until][0] - 1 if until < len(stream) else END
        store.apply([made for _, made in stream[place:until]], moment)
        place = until
        if draw.random() < 0.1:
            place_file.with_suffix(".new").write_text(str(place))
            place_file.with_suffix(".new").replace(place_file)
    store.apply([], END)
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
