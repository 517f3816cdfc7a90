"""Incidents are a function of the detections, whatever the batches, the order and the repetitions."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories import make_detection
from incident_desk import sqlite_desk
from shopstream.detection.detection import Detection

SLIDE, SIZE, QUIET = 1_000, 10_000, 20_000
DISORDER = QUIET - 1
END = 1 << 50


def detection(user: int, start_ms: int, events: int, *, final: bool = True) -> Detection:
    return make_detection(
        start_ms,
        {"user_id": str(user)},
        first_event_ms=start_ms + start_ms % 7,
        last_event_ms=start_ms + SIZE - 1 - start_ms % 11,
        measures={"events": events},
        final=final,
        suppress_for_ms=QUIET,
    )


@st.composite
def traffic(draw):
    """Final detections in order of their end, as the batch query would give them."""
    windows = draw(
        st.lists(
            st.tuples(st.integers(1, 2), st.integers(0, 120), st.integers(16, 40)),
            min_size=1,
            max_size=25,
            unique_by=lambda window: window[:2],
        )
    )
    return sorted((detection(user, place * SLIDE, events) for user, place, events in windows), key=lambda d: d.end_ms)


@st.composite
def deliveries(draw):
    """The same detections: provisional ones mixed in, out of order within the bound, cut into batches, some again."""
    final = draw(traffic())
    shifts = draw(st.lists(st.integers(0, DISORDER), min_size=len(final), max_size=len(final)))
    stream = [(d.end_ms + shift, d) for d, shift in zip(final, shifts, strict=True)]
    for d in final:
        if draw(st.booleans()):
            early = replace(
                d,
                final=False,
                measures={"events": draw(st.integers(16, d.measures["events"]))},
                last_event_ms=d.last_event_ms - draw(st.integers(0, 50)),
            )
            stream.append((d.end_ms - draw(st.integers(0, SIZE)), early))
    stream.sort(key=lambda item: item[0])
    ordered = [d for _, d in stream]
    cuts = sorted(draw(st.sets(st.integers(0, len(ordered)), max_size=6)) | {0, len(ordered)})
    batches = []
    for begin, end in pairwise(cuts):
        waiting = [d.end_ms for d in ordered[end:] if d.final]
        watermark = min([*waiting, END]) - 1
        if waiting and draw(st.booleans()):
            watermark -= draw(st.integers(0, SIZE))
        batches.append((ordered[begin:end], watermark))
    while draw(st.booleans()):  # a crash: the engine goes back to a checkpoint and cuts its batches anew
        place = draw(st.integers(0, len(batches)))
        back = draw(st.integers(0, place))
        again = [d for batch, _ in batches[back:place] for d in batch]
        cut = draw(st.integers(0, len(again)))
        low = batches[back - 1][1] if back else -1
        batches[place:place] = [(again[:cut], low), (again[cut:], batches[place - 1][1] if place else -1)]
    return final, batches


def incidents_of(path, batches):
    store = sqlite_desk(path)
    for batch, watermark in batches:
        store.apply(batch, watermark)
    store.apply([], END)
    found = sorted(store.list(), key=lambda incident: incident.id)
    store.close()
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(deliveries())
def test_any_batches_order_and_repetition_give_the_same_incidents(tmp_path_factory, given_deliveries):
    final, batches = given_deliveries
    folder = tmp_path_factory.mktemp("incidents")
    once = incidents_of(folder / "once.db", [(final, END - 1)])
    assert incidents_of(folder / "again.db", batches) == once


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_an_incident_spans_the_chain_of_its_windows(tmp_path_factory, final):
    incidents = incidents_of(tmp_path_factory.mktemp("incidents") / "i.db", [(final, END)])
    expected = set()
    for user in ("1", "2"):
        chain: list[Detection] = []
        for d in [d for d in final if d.key["user_id"] == user]:
            if chain and d.start_ms - chain[-1].end_ms > QUIET:
                expected.add(described(chain))
                chain = []
            chain.append(d)
        if chain:
            expected.add(described(chain))
    assert {
        (
            i.keys["user_id"],
            i.first_event_time,
            i.last_event_time,
            i.detected_at_event_time,
            i.windows,
            i.peak["events"],
        )
        for i in incidents
    } == expected


def described(chain):
    def time(ms):
        return datetime.fromtimestamp(ms / 1000, UTC)

    return (
        chain[0].key["user_id"],
        time(min(d.first_event_ms for d in chain)),
        time(max(d.last_event_ms for d in chain)),
        time(chain[0].end_ms),
        len(chain),
        max(d.measures["events"] for d in chain),
    )
