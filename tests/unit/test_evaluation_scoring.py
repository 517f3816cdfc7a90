"""Scoring: hand-made incidents against hand-made attacks."""

from contextlib import closing
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from factories import make_event
from shopstream.detection.detection import Nature
from shopstream.evaluation.results import FoundIncident, Truth
from shopstream.evaluation.run_events import RunEvents
from shopstream.evaluation.scoring import GRACE_MS, IncidentRole, Unit, score
from shopstream.events.schema import WIRE_SCHEMA

START = 1_574_160_000_000
MINUTE = 60_000
BOTS = (901, 902, 903, 904)
SHOPPERS = range(1, 11)


def event(at_ms, user, *, category=7, kind="view"):
    columns = {"category_id": category, "user_session": f"session-{user}"}
    return make_event(datetime.fromtimestamp(at_ms / 1000, UTC), user, event_type=kind, product=user % 5, **columns)


def traffic(*, bots=BOTS, category=7):
    """Ten shoppers, one event a minute each; bots six a minute, from START on, for ten minutes."""
    rows = [event(START + minute * MINUTE, user) for minute in range(-5, 20) for user in SHOPPERS]
    rows += [event(START + at * 10_000, bot, category=category) for at in range(60) for bot in bots]
    rows.sort(key=lambda row: row["event_time"])
    return RunEvents([pa.Table.from_pylist(rows, schema=WIRE_SCHEMA)], bots)


def attack(**changes):
    facts = {
        "scenario": "some",
        "from_ms": START,
        "until_ms": START + 10 * MINUTE,
        "nature": Nature.ATTACK,
        "first_ms": START,
        "actors": frozenset(BOTS),
    }
    return Truth(**facts | changes)


def found(rule="rule", key=None, *, after_s=60, lasts_s=300, **changes):
    detected_ms = START + after_s * 1000
    facts = {
        "id": f"{rule}-{key}-{after_s}",
        "severity": "high",
        "nature": "attack",
        "first_ms": detected_ms - 30_000,
        "last_ms": detected_ms + lasts_s * 1000,
        "detected_ms": detected_ms,
    }
    return FoundIncident(rule=rule, key=key or {}, **facts | changes)


def scored(truth, incidents, *, baseline=(), unit=Unit.ATTACK, faults=(), **about):
    with closing(traffic(**about)) as events:
        return score(truth, unit, incidents, baseline, events, faults=faults)


def roles(result):
    return [one.role for one in result.incidents]


def test_a_site_incident_finds_an_attack_on_the_site():
    result = scored(attack(), [found()])
    assert result.detected_ms == START + 60_000
    assert roles(result) == [IncidentRole.TRUE]


def test_without_incidents_an_attack_is_missed():
    assert scored(attack(), []).detected_ms is None


def test_an_incident_of_the_baseline_run_finds_nothing():
    same = found()
    assert scored(attack(), [same], baseline=[same]).incidents == ()


def test_an_incident_before_the_attack_finds_nothing():
    assert scored(attack(), [found(after_s=-1)]).incidents == ()


def test_an_incident_long_after_the_attack_finds_nothing():
    late = found(after_s=(10 * MINUTE + GRACE_MS) // 1000 + 31)
    assert scored(attack(), [late]).detected_ms is None


def test_a_surge_is_no_detection():
    result = scored(attack(), [found(nature="surge")])
    assert result.detected_ms is None
    assert roles(result) == [IncidentRole.SURGE]


def test_an_incident_about_a_shopper_is_false():
    result = scored(attack(), [found(key={"user_id": "1"})])
    assert result.detected_ms is None
    assert roles(result) == [IncidentRole.FALSE]


def test_one_of_many_actors_is_true_but_does_not_find_the_attack():
    result = scored(attack(), [found(key={"user_id": str(BOTS[0])})])
    assert result.detected_ms is None
    assert roles(result) == [IncidentRole.TRUE]


def test_half_of_the_actors_find_the_attack():
    result = scored(attack(), [found(key={"user_id": str(bot)}, after_s=bot - 800) for bot in BOTS[:2]])
    assert result.detected_ms == START + (BOTS[1] - 800) * 1000


def test_an_incident_about_its_only_actor_finds_the_attack():
    only = BOTS[:1]
    result = scored(attack(actors=frozenset(only)), [found(key={"user_id": str(only[0])})], bots=only)
    assert result.detected_ms == START + 60_000


def test_a_session_is_traced_to_its_user():
    result = scored(attack(), [found(key={"user_session": f"session-{BOTS[0]}"})], unit=Unit.ACTOR)
    assert [actor.detected_ms is not None for actor in result.actors] == [True, False, False, False]


@pytest.mark.parametrize(("members", "role"), [({901, 902, 1}, IncidentRole.TRUE), ({901, 1, 2}, IncidentRole.FALSE)])
def test_a_campaign_is_true_if_most_members_are_actors(members, role):
    whole = found(key={"user_id": "901"}, whole=True, members=frozenset(members), group_ms=START + 90_000)
    result = scored(attack(), [whole])
    assert roles(result) == [role]
    assert result.detected_ms == (START + 90_000 if role is IncidentRole.TRUE else None)


def test_an_incident_takes_no_earlier_time_from_an_unrelated_episode():
    whole = found(whole=True, after_s=10)
    site = found(top=False, after_s=120)
    assert scored(attack(), [whole, site]).detected_ms == START + 120_000


def test_an_incident_is_true_if_an_episode_names_the_target():
    truth = attack(key={"category_id": "8"})
    whole = found(key={"category_id": "9"}, whole=True)
    part = found(key={"category_id": "8"}, top=False, parent=whole.id)
    result = scored(truth, [whole, part], category=8)
    assert result.top(IncidentRole.TRUE) == [whole]
    assert result.detected_ms == part.detected_ms


def test_only_listed_incidents_are_counted():
    result = scored(attack(), [found(whole=True), found(top=False)])
    assert len(result.top(IncidentRole.TRUE)) == 1


def test_an_incident_about_the_attacked_category_finds_the_attack():
    truth = attack(key={"category_id": "8"})
    assert scored(truth, [found(key={"category_id": "8"})], category=8).detected_ms is not None


def test_another_category_is_false():
    truth = attack(key={"category_id": "8"})
    assert roles(scored(truth, [found(key={"category_id": "7"})], category=8)) == [IncidentRole.FALSE]


def test_a_site_incident_is_true_of_an_attack_on_a_category_but_does_not_find_it():
    result = scored(attack(key={"category_id": "8"}), [found()], category=8)
    assert roles(result) == [IncidentRole.TRUE]
    assert result.detected_ms is None


def test_an_incident_about_an_unaffected_part_of_the_site_is_false():
    assert roles(scored(attack(), [found(key={"category_id": "9"})])) == [IncidentRole.FALSE]


def test_a_fault_without_events_is_found_by_its_target():
    truth = attack(nature=Nature.FAULT, actors=frozenset())
    assert scored(truth, [found(nature="fault")], bots=()).detected_ms is not None


def test_in_a_control_everything_but_a_surge_is_false():
    truth = attack(nature=Nature.SURGE, actors=frozenset())
    result = scored(truth, [found(), found("other", nature="surge")], bots=())
    assert sorted(roles(result)) == [IncidentRole.FALSE, IncidentRole.SURGE]


def test_the_fault_before_a_recovery_may_be_reported():
    truth = attack(nature=Nature.SURGE, actors=frozenset())
    outage = attack(nature=Nature.FAULT, actors=frozenset())
    assert roles(scored(truth, [found(nature="fault")], faults=[outage], bots=())) == [IncidentRole.TRUE]


def test_actors_are_counted_with_their_events():
    result = scored(attack(), [found(key={"user_id": str(BOTS[0])}, after_s=95)], unit=Unit.ACTOR)
    assert [actor.events_until for actor in result.actors] == [10, None, None, None]
    assert {actor.first_ms for actor in result.actors} == {START}
