"""What every incident store keeps to. Nothing here knows which adapter runs; see conftest.py to add one."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shopstream.clock import from_ms
from shopstream.detection.detection import Detection, Nature, Severity, Suppression
from shopstream.detection.rule_matcher import detection_id
from shopstream.errors import StateError
from shopstream.incidents.incident import Change, Handling, State
from shopstream.incidents.queries import count_incidents, read_episodes, read_incident, read_incidents
from shopstream.incidents.settings import AlertingSettings
from shopstream.incidents.verdicts import read_verdicts
from shopstream.notify.outbox import read_notifications
from shopstream.response.blocklist import read_blocklist

QUIET, SIZE, HOUR = 60_000, 10_000, 3_600_000


def detection(start_ms, events=20, *, user=7, rule="user_burst", severity=Severity.HIGH, final=True, **changes):
    key = {} if user is None else {"user_id": str(user)}
    made = Detection(
        detection_id=detection_id(rule, key, start_ms),
        rule_id=rule,
        rule_version="v1",
        title="Too fast",
        severity=severity,
        tags=("owasp.oat-011",),
        key_kind="user_id" if key else "site",
        key=key,
        start_ms=start_ms,
        end_ms=start_ms + SIZE,
        first_event_ms=start_ms + 100,
        last_event_ms=start_ms + SIZE - 100,
        measures={"events": events, "rate": 1.0, "value": "10.50", "many": 10**15 + 1},
        threshold="events > 15",
        final=final,
        suppress_for_ms=QUIET,
        evidence={"score": 0.1, "excess_events": 3.0, "composition": {"view": [1, 0.5]}},
    )
    return replace(made, **changes)


def changes_of(changes):
    return [change.change for change in changes]


@pytest.fixture
def store(incidents):
    opened = incidents.open()
    yield opened
    opened.close()


@pytest.fixture
def again(incidents):
    """Another store on the same incidents."""
    opened = []

    def open_another(*words):
        opened.append(incidents.open(*words))
        return opened[-1]

    yield open_another
    for one in opened:
        one.close()


def test_windows_that_follow_each_other_are_one_incident(store, incidents):
    assert changes_of(store.apply([detection(1_000), detection(2_000, 30)], 5_000)) == [Change.OPENED]
    assert changes_of(store.apply([detection(3_000, 25)], 13_000)) == [Change.UPDATED]
    (incident,) = read_incidents(incidents.path())
    assert (incident.windows, incident.state, incident.peak_start) == (3, State.OPEN, from_ms(2_000))
    assert (incident.first_event_time, incident.last_event_time) == (from_ms(1_100), from_ms(12_900))


def test_facts_come_back_as_they_were(store, incidents):
    store.apply([detection(1_000)], 5_000)
    (incident,) = read_incidents(incidents.path())
    assert repr(incident.peak) == "{'events': 20, 'rate': 1.0, 'value': '10.50', 'many': 1000000000000001}"
    assert repr(incident.evidence) == "{'score': 0.1, 'excess_events': 3.0, 'composition': {'view': [1, 0.5]}}"


def test_a_provisional_detection_opens_at_once_and_a_final_one_refines_it(store, again, incidents):
    store.apply([detection(1_000, 16, final=False, last_event_ms=4_000)], 2_000)
    (early,) = read_incidents(incidents.path())
    again().apply([detection(1_000, 22)], 12_000)
    (refined,) = read_incidents(incidents.path())
    assert (refined.id, refined.windows, refined.peak["events"]) == (early.id, 1, 22)


def test_quiet_time_closes_and_later_traffic_opens_another(store, again, incidents):
    store.apply([detection(1_000)], 11_000)
    assert store.apply([], 11_000 + QUIET) == []
    assert changes_of(store.apply([], 11_000 + QUIET + SIZE)) == [Change.CLOSED]
    assert changes_of(again().apply([detection(200_000)], 210_000)) == [Change.OPENED]
    second, first = read_incidents(incidents.path())
    assert (first.state, second.state) == (State.CLOSED, State.OPEN)
    assert first.id.removesuffix("-1") == second.id.removesuffix("-2")


def test_the_clock_closes_an_incident_and_counts_the_windows_that_come_after_all(store, again, incidents):
    over_ms = 12_000 + QUIET + SIZE
    store.apply([detection(1_000), detection(2_000, 16, final=False)], 11_500)
    assert store.apply([], 11_500, over_ms - 1) == []
    assert changes_of(store.apply([], 11_500, over_ms)) == [Change.CLOSED]
    assert changes_of(again().apply([detection(2_000, 25), detection(3_000)], 13_000)) == [Change.UPDATED]
    (incident,) = read_incidents(incidents.path())
    assert (incident.windows, incident.state) == (3, State.OPEN)


def test_the_same_detections_again_change_nothing(store, again, incidents):
    batch = [detection(0), detection(1_000), detection(0, user=8)]
    store.apply(batch, 5_000)
    before = read_incidents(incidents.path())
    assert store.apply(batch, 3_000) == []
    assert again().apply(batch, 3_000) == []
    assert read_incidents(incidents.path()) == before


def test_two_incidents_that_turn_out_to_be_one_become_one(store, again, incidents):
    store.apply([detection(0), detection(SIZE + 2 * QUIET - 5_000)], 0)
    first, second = sorted(i.id for i in read_incidents(incidents.path()))
    store.acknowledge(second, "mine")
    changes = again().apply([detection(QUIET)], 0)
    assert changes_of(changes) == [Change.ABSORBED, Change.UPDATED]
    assert (changes[0].incident_id, changes[0].into) == (second, first)
    (incident,) = read_incidents(incidents.path())
    assert (incident.id, incident.windows, incident.comment) == (first, 3, "mine")
    assert incident.state is State.ACKNOWLEDGED
    assert changes_of(again().apply([detection(500_000)], 0)) == [Change.OPENED]
    assert second in {i.id for i in read_incidents(incidents.path())}


def test_a_person_and_the_engine_write_side_by_side(store, again, incidents):
    store.apply([detection(0)], 0)
    incident_id = read_incidents(incidents.path())[0].id
    person = again()
    assert person.acknowledge(incident_id[:6], "on it").state is State.ACKNOWLEDGED
    assert changes_of(store.apply([detection(1_000)], 0)) == [Change.UPDATED]
    incident = read_incident(incidents.path(), incident_id)
    assert (incident.handling, incident.comment, incident.windows) == (Handling.ACKNOWLEDGED, "on it", 2)
    assert incident.handled_at == from_ms(incidents.clock.now_ms())
    assert person.resolve(incident_id).comment == "on it"
    assert read_incident(incidents.path(), incident_id).state is State.RESOLVED
    assert person.reopen(incident_id).state is State.OPEN


def test_an_id_that_fits_none_or_several_is_told(store, incidents):
    store.apply([detection(0), detection(0, user=8), detection(500_000)], 0)
    with pytest.raises(StateError, match="no incident has the id 'zzz'"):
        store.resolve("zzz")
    scope = next(i.id for i in read_incidents(incidents.path()) if i.id.endswith("-2")).partition("-")[0]
    with pytest.raises(StateError, match="several incidents fit"):
        store.resolve(scope)


def test_what_the_allow_list_covers_opens_nothing(store, incidents):
    assert store.apply([detection(0, suppression=Suppression("partners.a", "known"))], 0) == []
    assert read_incidents(incidents.path()) == []


def test_actors_of_a_campaign_are_one_incident_and_one_call_for_all(store, again, incidents):
    store.apply([detection(0, user=user, verdict="bot") for user in range(3)], 0)
    again().apply([detection(1_000, user=user, verdict="bot") for user in range(3, 7)], 1_000)
    (campaign,) = read_incidents(incidents.path())
    assert (campaign.campaign, len(campaign.actors), campaign.episodes) == (True, 7, 7)
    assert len(read_episodes(incidents.path(), campaign.id)) == 7
    again().mark_false_positive(campaign.id, "a test of ours")
    assert set(read_verdicts(incidents.path())["verdict"].to_pylist()) == {"human"}
    assert len(read_blocklist(incidents.path(), timedelta(hours=1), 0.05, from_ms(2_000)).left_out) == 7


def test_a_wider_incident_takes_in_what_was_told_before(store, again, incidents):
    store.apply([detection(0, user=3, nature=Nature.ATTACK)], 20_000)
    again().apply([detection(5_000, user=None, rule="site_rate")], 20_000)
    (whole,) = read_incidents(incidents.path())
    assert (whole.rule, whole.episodes, whole.key_kind) == ("site_rate", 2, "site")


def test_context_is_kept(store, again, incidents):
    (change,) = store.apply([detection(0)], 0)
    store.describe(change.incident_id, {"brands": [["a", 3]]})
    again().apply([detection(1_000)], 0)
    assert read_incident(incidents.path(), change.incident_id).context == {"brands": [["a", 3]]}


def test_each_target_hears_once_whoever_writes(again, incidents):
    settings = AlertingSettings(notify_hold=timedelta(0))
    for _ in range(2):
        store = again(settings, ("json-a", "sns-b"))
        store.apply([detection(0)], 20_000)
        store.apply([detection(1_000, severity=Severity.CRITICAL)], 20_000)
    told = [(one.target, one.kind) for one in read_notifications(incidents.path())]
    assert sorted(told) == sorted((target, kind) for target in ("json-a", "sns-b") for kind in ("opened", "raised"))


def test_what_waits_to_be_told_is_told_by_whoever_comes_next(again, incidents):
    again(None, ("json-a",)).apply([detection(0)], 20_000)
    assert read_notifications(incidents.path()) == []
    again(None, ("json-a",)).apply([], SIZE + QUIET)
    assert [one.kind for one in read_notifications(incidents.path())] == ["opened"]


def test_retention_forgets_the_closed_and_keeps_their_ids_from_coming_again(again, incidents):
    settings = AlertingSettings(retention=timedelta(hours=1))
    store = again(settings)
    store.apply([detection(0)], 0)
    store.apply([], HOUR // 2)
    first = read_incidents(incidents.path())[0].id
    store.apply([detection(3 * HOUR)], 3 * HOUR)
    (second,) = read_incidents(incidents.path())
    assert (first[-2:], second.id[-2:]) == ("-1", "-2")
    again(settings).apply([], 1 << 61)
    assert [i.id for i in read_incidents(incidents.path())] == [second.id]


def test_an_actor_that_comes_again_after_long_gets_the_next_id(store, again, incidents):
    store.apply([detection(0), detection(0, user=8)], 0)
    store.apply([detection(50 * HOUR, user=8)], 50 * HOUR)  # closes the first
    changes = again().apply([detection(51 * HOUR)], 51 * HOUR)
    assert changes_of(changes) == [Change.OPENED, Change.CLOSED]
    assert changes[0].incident_id.endswith("-2")
    assert count_incidents(incidents.path())[State.CLOSED] == 3


def test_a_late_detection_extends_what_closed_long_ago(store, again, incidents):
    store.apply([detection(0, user=user) for user in range(6)], 0)
    store.apply([detection(50 * HOUR, user=9)], 50 * HOUR)
    changes = again().apply([detection(30_000, user=3)], 50 * HOUR)
    assert changes_of(changes) == [Change.UPDATED]
    campaign = next(i for i in read_incidents(incidents.path()) if i.campaign)
    assert (campaign.episodes, campaign.last_event_time) == (6, from_ms(39_900))


def test_hundreds_of_actors_at_once_are_all_or_nothing_and_soon_there(store, again, incidents):
    batch = [detection(0, user=user) for user in range(400)]
    assert len(store.apply(batch, 0)) == 400
    (campaign,) = read_incidents(incidents.path())
    assert (len(campaign.actors), campaign.episodes) == (400, 400)
    assert again().apply(batch, 0) == []
