"""What every incident store keeps to, reads included. Nothing here knows which adapter runs; see conftest.py."""

from contextlib import closing
from datetime import timedelta

import pytest

from factories import make_detection
from incident_desk import Desk
from shopstream.clock import from_ms
from shopstream.detection.detection import Nature, Severity, Suppression
from shopstream.errors import StateError
from shopstream.incidents.grouping import GroupingRules
from shopstream.incidents.incident import Change, State, TriageStatus, read_precision, split_id
from shopstream.incidents.ports import DeliveryState, IncidentUpdate, LastOrdinal, NewNotification
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.incidents.tracker import IncidentTracker
from shopstream.incidents.verdicts import read_verdicts
from shopstream.response.blocklist import read_blocklist

QUIET, SIZE, HOUR = 60_000, 10_000, 3_600_000


def detection(start_ms, events=20, *, user=7, **changes):
    facts = {
        "first_event_ms": start_ms + 100,
        "last_event_ms": start_ms + SIZE - 100,
        "measures": {"events": events, "rate": 1.0, "value": "10.50", "many": 10**15 + 1},
        "evidence": {"score": 0.1, "excess_events": 3.0, "composition": {"view": [1, 0.5]}},
    }
    key = {} if user is None else {"user_id": str(user)}
    return make_detection(start_ms, **{"key": key} | facts | changes)


def changes_of(changes):
    return [change.change for change in changes]


@pytest.fixture
def make_desk(open_incidents, incident_clock):
    made = []

    def make(settings=None, targets=(), notify=None):
        made.append(Desk(open_incidents, settings, incident_clock, targets, notify))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def desk(make_desk):
    return make_desk()


@pytest.fixture
def other(open_incidents):
    """The store as another process has it open."""
    with closing(open_incidents()) as store:
        yield store


def test_windows_that_follow_each_other_are_one_incident(desk, other):
    assert changes_of(desk.apply([detection(1_000), detection(2_000, 30)], 5_000)) == [Change.OPENED]
    assert changes_of(desk.apply([detection(3_000, 25)], 13_000)) == [Change.UPDATED]
    (incident,) = other.list()
    assert (incident.windows, incident.state, incident.peak_start) == (3, State.OPEN, from_ms(2_000))
    assert (incident.first_event_time, incident.last_event_time) == (from_ms(1_100), from_ms(12_900))


def test_facts_come_back_as_they_were(desk, other):
    desk.apply([detection(1_000)], 5_000)
    (incident,) = other.list()
    assert repr(incident.peak) == "{'events': 20, 'rate': 1.0, 'value': '10.50', 'many': 1000000000000001}"
    assert repr(incident.evidence) == "{'score': 0.1, 'excess_events': 3.0, 'composition': {'view': [1, 0.5]}}"


def test_a_provisional_detection_opens_at_once_and_a_final_one_refines_it(desk, other):
    desk.apply([detection(1_000, 16, final=False, last_event_ms=4_000)], 2_000)
    (early,) = other.list()
    desk.commit()
    desk.restart()
    desk.apply([detection(1_000, 22)], 12_000)
    (refined,) = other.list()
    assert (refined.id, refined.windows, refined.peak["events"]) == (early.id, 1, 22)


def test_quiet_time_closes_and_later_traffic_opens_another(desk, other):
    desk.apply([detection(1_000)], 11_000)
    assert desk.apply([], 11_000 + QUIET) == []
    assert changes_of(desk.apply([], 11_000 + QUIET + SIZE)) == [Change.CLOSED]
    desk.commit()
    desk.restart()
    assert changes_of(desk.apply([detection(200_000)], 210_000)) == [Change.OPENED]
    second, first = other.list()
    assert (first.state, second.state) == (State.CLOSED, State.OPEN)
    assert first.id.removesuffix("-1") == second.id.removesuffix("-2")


def test_the_clock_closes_an_incident_and_counts_the_windows_that_come_after_all(desk, other):
    over_ms = 12_000 + QUIET + SIZE
    desk.apply([detection(1_000), detection(2_000, 16, final=False)], 11_500)
    assert desk.apply([], 11_500, over_ms - 1) == []
    assert changes_of(desk.apply([], 11_500, over_ms)) == [Change.CLOSED]
    desk.commit()
    desk.restart()
    assert changes_of(desk.apply([detection(2_000, 25), detection(3_000)], 13_000)) == [Change.UPDATED]
    (incident,) = other.list()
    assert (incident.windows, incident.state) == (3, State.OPEN)


def test_the_same_detections_again_change_nothing(desk, other):
    batch = [detection(0), detection(1_000), detection(0, user=8)]
    desk.apply(batch, 5_000)
    before = other.list()
    assert desk.apply(batch, 3_000) == []
    desk.commit()
    desk.restart()
    assert desk.apply(batch, 3_000) == []
    assert other.list() == before


def test_two_incidents_that_turn_out_to_be_one_become_one(desk, other):
    desk.apply([detection(0), detection(SIZE + 2 * QUIET - 5_000)], 0)
    first, second = sorted(i.id for i in other.list())
    other.set_status(second, TriageStatus.ACKNOWLEDGED, comment="mine", owner="ada")
    changes = desk.apply([detection(QUIET)], 0)
    assert changes_of(changes) == [Change.ABSORBED, Change.UPDATED]
    assert (changes[0].incident_id, changes[0].into) == (second, first)
    (incident,) = other.list()
    assert (incident.id, incident.windows, incident.comment, incident.owner) == (first, 3, "mine", "ada")
    assert incident.state is State.ACKNOWLEDGED
    assert changes_of(desk.apply([detection(500_000)], 0)) == [Change.OPENED]
    assert second in {i.id for i in other.list()}
    assert other.get(second).status is TriageStatus.NONE


def test_the_id_of_an_absorbed_incident_leads_to_the_one_that_took_it_in(desk, other):
    desk.apply([detection(0), detection(SIZE + 2 * QUIET - 5_000)], 0)
    first, second = sorted(i.id for i in other.list())
    desk.apply([detection(QUIET)], 0)
    assert other.get(second).id == first
    assert other.get(first[:8]).id == first
    assert [part.id for part in other.parts(first)] == [first]


def test_a_person_and_the_engine_write_side_by_side(desk, other, incident_clock):
    desk.apply([detection(0)], 0)
    incident_id = other.list()[0].id
    assert other.set_status(incident_id[:6], TriageStatus.ACKNOWLEDGED, comment="on it").state is State.ACKNOWLEDGED
    assert changes_of(desk.apply([detection(1_000)], 0)) == [Change.UPDATED]
    incident = other.get(incident_id)
    assert (incident.status, incident.comment, incident.windows) == (TriageStatus.ACKNOWLEDGED, "on it", 2)
    assert incident.status_at == from_ms(incident_clock.now_ms())
    assert other.set_status(incident_id, TriageStatus.RESOLVED).comment == "on it"
    assert other.get(incident_id).state is State.RESOLVED
    assert other.set_status(incident_id, TriageStatus.NONE).state is State.OPEN


def test_an_id_that_fits_none_or_several_is_reported(desk, other):
    desk.apply([detection(0), detection(0, user=8), detection(500_000)], 0)
    with pytest.raises(StateError, match="no incident has the id 'fff'"):
        other.get("fff")
    scope = next(i.id for i in other.list() if i.id.endswith("-2")).partition("-")[0]
    with pytest.raises(StateError, match="several incidents fit"):
        other.set_status(scope, TriageStatus.RESOLVED)
    assert other.get(f"{scope[:1]}-2").id == f"{scope}-2"
    for hostile in ("", f"{scope}-%", f"{scope}-_", "%", "\udcff"):
        with pytest.raises(StateError, match="no incident"):
            other.get(hostile)


def test_an_empty_store_has_nothing(other):
    assert (other.list(), other.count(), other.as_of_ms()) == ([], dict.fromkeys(State, 0), None)
    assert (list(other.actors()), list(other.notifications()), other.last_ordinals(["0" * 16])) == ([], [], {})


def test_lists_are_filtered_and_those_with_the_newest_events_come_first(desk, other):
    desk.apply([detection(0), detection(500_000, user=8, severity=Severity.LOW)], 0)
    desk.apply([detection(100_000, user=9, rule="other")], 0)
    other.set_status(other.list(rules=["other"])[0].id, TriageStatus.RESOLVED)
    assert [i.keys["user_id"] for i in other.list()] == ["8", "9", "7"]
    assert [i.keys["user_id"] for i in other.list(limit=1)] == ["8"]
    assert [i.severity for i in other.list(severities=[Severity.LOW])] == [Severity.LOW]
    assert [i.rule for i in other.list(states=[State.RESOLVED])] == ["other"]
    assert [
        i.keys["user_id"] for i in other.list(states=[State.OPEN, State.CLOSED], rules=["user_burst"], limit=1)
    ] == ["8"]
    assert other.list(states=[State.CLOSED]) == []
    assert (other.count()[State.OPEN], other.count()[State.RESOLVED]) == (2, 1)
    assert [(one.rule, one.incidents, one.right) for one in read_precision(other.list())] == [
        ("other", 1, 1),
        ("user_burst", 2, 0),
    ]


def test_what_the_allow_list_covers_opens_nothing(desk, other):
    assert desk.apply([detection(0, suppression=Suppression("partners.a", "known"))], 0) == []
    assert other.list() == []


def test_actors_of_a_campaign_are_one_incident_and_one_call_for_all(desk, other):
    desk.apply([detection(0, user=user, verdict="bot") for user in range(3)], 0)
    desk.commit()
    desk.restart()
    desk.apply([detection(1_000, user=user, verdict="bot") for user in range(3, 7)], 1_000)
    (campaign,) = other.list()
    assert (campaign.campaign, len(campaign.actors), campaign.episodes) == (True, 7, 7)
    parts = other.parts(campaign.id)
    assert (len(parts), parts[0].id, {part.parent for part in parts[1:]}) == (7, campaign.id, {campaign.id})
    other.set_status(campaign.id, TriageStatus.FALSE_POSITIVE, comment="a test of ours")
    assert set(read_verdicts(other)["verdict"].to_pylist()) == {"human"}
    assert len(read_blocklist(other, timedelta(hours=1), 0.05, from_ms(2_000)).left_out) == 7
    desk.apply([detection(2_000, user=8, verdict="bot")], 2_000)
    assert read_verdicts(other)["verdict"].to_pylist() == ["human"] * 8, "who joins later is judged, too"


def test_what_is_said_of_a_part_is_said_of_that_part_alone(desk, other):
    desk.apply([detection(0, user=user, verdict="bot") for user in range(6)], 0)
    (campaign,) = other.list()
    part = other.parts(campaign.id)[3]
    assert other.set_status(part.id, TriageStatus.FALSE_POSITIVE, comment="the owner").parent == campaign.id
    assert sorted(read_verdicts(other)["verdict"].to_pylist()) == ["bot"] * 5 + ["human"]
    assert other.get(campaign.id).state is State.OPEN


def test_verdicts_name_actor_time_and_incident(desk, other):
    desk.apply([detection(0, verdict="bot"), detection(1_000, rule="user_breadth", verdict="bot")], 0)
    first, second = read_verdicts(other).to_pylist()
    assert (first["actor"], first["verdict"], first["from_time"], first["until_time"]) == (
        "7",
        "bot",
        from_ms(100),
        from_ms(9_901),
    )
    assert {first["incident_id"], second["incident_id"]} == {other.list()[0].id}
    assert [one.last_event_time for one in other.actors(10_000)] == [from_ms(10_900)]


def test_a_wider_incident_absorbs_a_notified_one(desk, other):
    desk.apply([detection(0, user=3, nature=Nature.ATTACK)], 20_000)
    desk.commit()
    desk.restart()
    desk.apply([detection(5_000, user=None, rule="site_rate")], 20_000)
    (whole,) = other.list()
    assert (whole.rule, whole.episodes, whole.key_kind) == ("site_rate", 2, "site")
    assert other.count()[State.OPEN] == 1


def test_context_is_kept(desk, other):
    (change,) = desk.apply([detection(0)], 0)
    other.set_context(change.incident_id, {"brands": [["a", 3]]})
    desk.apply([detection(1_000)], 0)
    assert other.get(change.incident_id).context == {"brands": [["a", 3]]}


NOTIFY = NotifySettings(hold=timedelta(0))


def test_each_target_hears_once_of_each_severity_across_a_crash(make_desk, other):
    desk = make_desk(None, ("json-a", "sns-b"), NOTIFY)
    for _ in range(2):
        desk.apply([detection(0)], 20_000)
        desk.apply([detection(1_000, severity=Severity.CRITICAL)], 20_000)
        desk.restart()
    told = [(one.target, one.kind) for one in other.notifications()]
    assert sorted(told) == sorted((target, kind) for target in ("json-a", "sns-b") for kind in ("opened", "raised"))


def test_a_pending_notification_is_sent_by_the_next_process(make_desk, other):
    desk = make_desk(None, ("json-a",))
    desk.apply([detection(0)], 20_000)
    assert list(other.notifications()) == []
    desk.commit()
    desk.restart()
    desk.apply([], SIZE + QUIET)
    assert [one.kind for one in other.notifications()] == ["opened"]


def test_an_id_that_is_given_again_is_reported_again(make_desk, other):
    desk = make_desk(IncidentSettings(campaign_within=timedelta(0)), ("json-a",), NOTIFY)
    desk.apply([detection(0), detection(SIZE + 2 * QUIET - 5_000)], 0)
    desk.apply([detection(QUIET)], 0)
    before = len(other.notifications())
    desk.apply([detection(900_000)], 0)
    assert len(other.notifications()) == before + 1


def test_resolved_incidents_are_not_notified(make_desk, other):
    desk = make_desk(None, ("json-a",), NOTIFY.model_copy(update={"severity": Severity.MEDIUM}))
    (opened,) = desk.apply([detection(0, severity=Severity.MEDIUM)], 20_000)
    other.set_status(opened.incident_id, TriageStatus.RESOLVED)
    desk.apply([detection(1_000, severity=Severity.CRITICAL)], 20_000)
    (incident,) = other.list()
    assert (incident.severity, incident.notifications) == (Severity.CRITICAL, 1)


def test_a_notification_waits_is_tried_again_and_ends(other, incident_clock):
    now_ms = incident_clock.now_ms()
    one = NewNotification("0" * 16 + "-1", "opened", Severity.HIGH, "a")
    other.put(IncidentUpdate(1, 0, notifications=[one, one._replace(target="b")]))
    other.put(IncidentUpdate(1, 0, notifications=[one._replace(kind="raised")]))
    (waiting,) = other.pending("a", now_ms)
    assert (waiting.reference, waiting.severity, waiting.due) == (one.reference, Severity.HIGH, from_ms(now_ms))
    other.mark([one.reference], "a", DeliveryState.PENDING, now_ms + 9, "HTTP 500")
    assert list(other.pending("a", now_ms + 8)) == []
    (again,) = other.pending("a", now_ms + 9)
    assert (again.attempts, again.error) == (1, "HTTP 500")
    other.mark([one.reference], "a", DeliveryState.FAILED, now_ms + 9, "HTTP 500")
    assert list(other.pending("a", now_ms + 99)) == []
    assert other.retry_failed(now_ms + 10) == 1
    assert [found.attempts for found in other.pending("a", now_ms + 10)] == [0]
    other.mark([one.reference], "a", DeliveryState.SENT, now_ms + 11)
    sent = next(found for found in other.notifications() if found.target == "a")
    assert (sent.state, sent.attempts, sent.error, sent.due) == (DeliveryState.SENT, 1, None, None)
    assert (sent.finished, len(other.notifications(limit=1))) == (from_ms(now_ms + 11), 1)
    assert len(other.pending("b", now_ms)) == 1, "the other target has its own"


def test_notifications_of_an_incident_are_those_of_its_parts_too(make_desk, other):
    desk = make_desk(None, ("json-a",), NOTIFY)
    desk.apply([detection(0, user=3)], 20_000)
    desk.apply([detection(0, user=4, rule="another", tags=("owasp.oat-001",))], 20_000)
    desk.apply([detection(5_000, user=None, rule="site_rate")], 20_000)
    whole = other.list(rules=["site_rate"])[0]
    assert len(other.notifications(incident_id=whole.id)) == 1
    assert len(other.notifications()) == 2


def test_retention_forgets_the_closed_and_keeps_their_ids_from_coming_again(make_desk, other):
    desk = make_desk(IncidentSettings(retention=timedelta(hours=1)))
    desk.apply([detection(0)], 0)
    desk.apply([], HOUR // 2)
    first = other.list()[0].id
    desk.apply([detection(3 * HOUR)], 3 * HOUR)
    (second,) = other.list()
    assert (first[-2:], second.id[-2:]) == ("-1", "-2")
    desk.commit()
    desk.restart()
    desk.apply([], 1 << 61)
    assert [i.id for i in other.list()] == [second.id]


def test_an_actor_that_comes_again_after_long_gets_the_next_id(desk, other):
    desk.apply([detection(0), detection(0, user=8)], 0)
    desk.apply([detection(50 * HOUR, user=8)], 50 * HOUR)  # closes the first
    desk.commit()
    desk.restart()
    changes = desk.apply([detection(51 * HOUR)], 51 * HOUR)
    assert changes_of(changes) == [Change.OPENED, Change.CLOSED]
    assert changes[0].incident_id.endswith("-2")
    assert other.count()[State.CLOSED] == 3


def test_a_tracker_whose_state_was_lost_uses_no_id_again(make_desk, other):
    desk = make_desk()
    for hour in range(4):  # more checkpoints than may be under way
        desk.apply([detection(hour * HOUR)], hour * HOUR)
        desk.commit()
    make_desk().apply([detection(9 * HOUR)], 9 * HOUR)
    assert sorted(split_id(one.id)[1] for one in other.list()) == [1, 2, 3, 4, 5]


def test_detections_of_an_incident_that_is_long_over_change_nothing_when_they_come_again(desk, other):
    desk.apply([detection(0), detection(1_000)], 0)
    desk.apply([detection(50 * HOUR, user=8)], 50 * HOUR)
    before = other.list()
    assert desk.apply([detection(0), detection(1_000)], 50 * HOUR) == []
    assert other.list() == before


def test_hundreds_of_actors_at_once_are_soon_there(desk, other):
    batch = [detection(0, user=user) for user in range(400)]
    assert len(desk.apply(batch, 0)) == 400
    (campaign,) = other.list()
    assert (len(campaign.actors), campaign.episodes) == (400, 400)
    desk.commit()
    desk.restart()
    assert desk.apply(batch, 0) == []


def test_what_a_crash_left_comes_again_under_its_id_and_keeps_peoples_words(desk, other):
    desk.apply([detection(0)], 0)
    desk.commit()
    desk.apply([detection(1_000), detection(0, user=8)], 1_000)
    lost = next(one.id for one in other.list() if one.keys["user_id"] == "8")
    other.set_status(lost, TriageStatus.ACKNOWLEDGED, comment="seen")
    desk.restart()
    desk.apply([], 1_000)
    assert {one.windows for one in other.list() if one.keys["user_id"] == "7"} == {1}, "as the checkpoint has it"
    desk.apply([detection(1_000), detection(0, user=8)], 1_000)
    assert sorted((one.id, one.windows) for one in other.list()) == sorted(
        [(lost, 1), (next(one.id for one in other.list() if one.id != lost), 2)]
    )
    assert other.get(lost).comment == "seen"
    desk.apply([], 20_000)
    assert len(other.list()) == 2


def test_what_a_crash_left_and_never_comes_again_is_removed(desk, other):
    desk.apply([detection(0)], 0)
    desk.commit()
    desk.apply([detection(0, user=8, final=False)], 1_000)
    desk.restart()
    assert len(other.list()) == 2, "it may come again"
    desk.apply([], HOUR)
    (kept,) = other.list()
    assert kept.keys == {"user_id": "7"}
    assert changes_of(desk.apply([detection(2 * HOUR, user=8)], 2 * HOUR)) == [Change.OPENED]
    assert other.list()[0].id.endswith("-1"), "the id was never somebody's"


def test_what_one_crash_left_comes_again_though_another_follows(desk, other):
    first, second = detection(0), detection(0, user=8)
    desk.apply([first, second], 1_000)
    desk.restart()
    desk.apply([first], 500)
    desk.commit()
    desk.restart()
    assert changes_of(desk.apply([second], 1_000)) == [Change.OPENED]
    assert sorted(split_id(one.id)[1] for one in other.list()) == [1, 1]
    desk.apply([], HOUR)
    assert len(other.list()) == 2


def test_rows_say_which_checkpoint_holds_them(desk, other):
    desk.apply([detection(0)], 0)
    assert [row.generation for row in other.written_after(0)] == [1]
    desk.commit()
    assert list(other.written_after(1)) == []
    desk.apply([detection(0, user=8, rule="other", tags=())], 0)
    assert [row.generation for row in other.written_after(1)] == [2]


def test_a_process_that_was_overtaken_writes_nothing(desk, other):
    for _ in range(4):
        desk.commit()
    desk.apply([detection(0)], 0)
    tracker = IncidentTracker(GroupingRules(5, 0, 0))
    tracker.apply([detection(0), detection(1_000)], 0)
    rows = tracker.drain().rows
    with pytest.raises(StateError, match="another process"):
        other.put(IncidentUpdate(1, 0, rows=rows))
    assert other.list()[0].windows == 1


def test_the_last_ordinal_of_a_rule_and_key_is_known(desk, other):
    (opened,) = desk.apply([detection(0)], 0)
    scope = split_id(opened.incident_id)[0]
    assert other.last_ordinals([scope, "f" * 16]) == {scope: LastOrdinal(1, 9_900)}
