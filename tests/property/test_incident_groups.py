"""What people see is a function of the detections, whatever the batches, restarts and repetitions."""

import random
from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from factories import make_detection
from incident_desk import sqlite_desk
from shopstream.detection.detection import Nature
from shopstream.incidents.grouping import GroupingRules, Member, actor_of, group
from shopstream.incidents.settings import IncidentSettings

SIZE, QUIET, END = 10_000, 30_000, 1 << 50
SETTINGS = IncidentSettings(
    campaign_actors=2,
    campaign_within=timedelta(seconds=20),
    recovery=timedelta(seconds=40),
    retention=timedelta(days=90),
)
SERIES = (
    ("user_burst", {"user_id": "1"}, "owasp.oat-011", Nature.ATTACK),
    ("user_burst", {"user_id": "2"}, "owasp.oat-011", Nature.ATTACK),
    ("user_breadth", {"user_id": "2"}, "owasp.oat-011", Nature.ATTACK),
    ("carding", {"user_id": "3"}, "owasp.oat-001", Nature.ATTACK),
    ("volume", {}, "owasp.oat-015", Nature.ATTACK),
    ("volume_surge", {}, "", Nature.SURGE),
    ("volume", {"product_id": "9"}, "owasp.oat-015", Nature.ATTACK),
    ("coordination_net", {"ip_net": "192.0.2.0/24"}, "owasp.oat-011", Nature.ATTACK),
    ("silence", {}, "", Nature.FAULT),
)


def detection(series, start_ms):
    rule, key, label, nature = SERIES[series]
    return make_detection(
        start_ms,
        key,
        rule=rule,
        title=rule,
        tags=(label,) if label else (),
        first_event_ms=start_ms + 1,
        measures={"events": 20 + series},
        suppress_for_ms=QUIET,
        nature=nature,
        evidence={"confidence": 0.5 + series / 20, "expected": 3},
    )


traffic = st.lists(
    st.tuples(st.integers(0, len(SERIES) - 1), st.integers(0, 60)), min_size=1, max_size=30, unique=True
).map(lambda found: sorted((detection(series, place * 5_000) for series, place in found), key=lambda d: d.end_ms))


def seen(store):
    incidents = sorted(store.list(), key=lambda incident: incident.id)
    return [replace(one, notifications=0) for one in incidents], [store.parts(one.id) for one in incidents]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(traffic, st.integers(0, 1 << 30))
@example([detection(*one) for one in ((0, 0), (1, 0), (0, 105_000), (1, 105_000), (0, 110_000), (0, 115_000))], 88)
def test_any_batches_restarts_and_repetitions_show_people_the_same(tmp_path_factory, found, seed):
    folder = tmp_path_factory.mktemp("groups")
    once = sqlite_desk(folder / "once.db", SETTINGS)
    once.apply(found, found[-1].end_ms)
    once.apply([], END)

    draw = random.Random(seed)  # noqa: S311  no secret
    store = sqlite_desk(folder / "again.db", SETTINGS)
    place = saved = 0
    while place < len(found):
        until = min(len(found), place + draw.randrange(1, 6))
        batch = found[place:until]
        draw.shuffle(batch)
        watermark = found[until].end_ms - 1 if until < len(found) else found[-1].end_ms
        store.apply(batch, watermark)
        place = until if draw.random() < 0.8 else max(place - 3, 0)  # some come again
        if draw.random() < 0.3:
            store.commit()
            saved = place
        if draw.random() < 0.3:  # a crash
            store.restart()
            place = saved
        else:
            store.apply([], watermark)
    store.apply([], END)
    assert seen(store) == seen(once)
    store.close()
    once.close()


@settings(max_examples=40, deadline=None)
@given(traffic)
def test_every_episode_is_in_one_incident_and_sums_are_over_its_parts(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("groups") / "i.db"
    store = sqlite_desk(path, SETTINGS)
    store.apply(found, found[-1].end_ms)
    incidents, parts = seen(store)
    store.close()
    assert sum(incident.episodes for incident in incidents) == sum(map(len, parts))
    assert sum(incident.windows for incident in incidents) == len({d.detection_id for d in found})
    for incident, under in zip(incidents, parts, strict=True):
        assert under[0].id == incident.id
        assert {part.parent for part in under[1:]} <= {incident.id}
        assert incident.first_event_time == min(part.first_event_time for part in under)
        assert incident.last_event_time == max(part.last_event_time for part in under)
        assert set(incident.rules) == {part.rule for part in under}
        assert set(incident.actors) == {actor for part in under for actor in part.actors}


members = st.lists(
    st.builds(
        lambda n, series, at, length: Member(
            f"{n:04}-{series}",
            SERIES[series][0],
            tuple(sorted(SERIES[series][1].items())),
            actor_of(tuple(sorted(SERIES[series][1].items()))),
            list(Nature).index(SERIES[series][3]),
            tuple(filter(None, [SERIES[series][2]])),
            at * 1_000,
            (at + length) * 1_000,
            5_000,
        ),
        st.integers(0, 9_999),
        st.integers(0, len(SERIES) - 1),
        st.integers(0, 200),
        st.integers(0, 40),
    ),
    max_size=40,
    unique_by=lambda member: member.id,
)


@settings(max_examples=300, deadline=None)
@given(members, st.randoms(use_true_random=False))
def test_grouping_minds_no_order_and_every_root_is_a_head(found, draw):
    rules = GroupingRules(campaign_actors=2, campaign_within_ms=20_000, recovery_ms=40_000)
    places = group(found, rules)
    shuffled = list(found)
    draw.shuffle(shuffled)
    assert group(shuffled, rules) == places
    assert places.keys() == {member.id for member in found}
    for place in places.values():
        assert places[place.root].root == place.root
        assert places[place.root].role == "head"
        assert places[place.root].chain == place.chain, "what is one incident is remembered together"


@settings(max_examples=300, deadline=None)
@given(members)
def test_chains_can_be_grouped_by_themselves(found):
    rules = GroupingRules(campaign_actors=2, campaign_within_ms=20_000, recovery_ms=40_000)
    places = group(found, rules)
    for chain in {place.chain for place in places.values()}:
        alone = [member for member in found if places[member.id].chain == chain]
        assert group(alone, rules) == {member.id: places[member.id] for member in alone}
