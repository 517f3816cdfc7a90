"""How often people hear of an incident."""

from datetime import timedelta

import pytest

from factories import make_detection
from incident_desk import sqlite_desk
from shopstream.clock import ManualClock
from shopstream.detection.detection import Nature, Severity, Suppression
from shopstream.incidents.incident import TriageStatus
from shopstream.incidents.settings import NotifySettings

SIZE, MINUTE = 10_000, 60_000


def detection(start_ms, user=7, *, label="owasp.oat-011", **changes):
    key = {} if user is None else {"user_id": str(user)}
    facts = {"tags": (label,), "suppress_for_ms": 5 * MINUTE, "verdict": "bot" if key else None}
    return make_detection(start_ms, key, **(facts | changes))


class Notified:
    """A desk that nobody delivers from."""

    def __init__(self, path, **notify):
        self.clock = ManualClock(1_000_000)
        self.store = sqlite_desk(path / "incidents.db", None, self.clock, ("a", "b"), NotifySettings(**notify))

    def told(self):
        return sorted((one.kind, str(one.severity)) for one in self.store.notifications() if one.target == "a")


@pytest.fixture
def desk(tmp_path):
    made = []

    def make(**settings):
        made.append(Notified(tmp_path, **settings))
        return made[-1]

    yield make
    for one in made:
        one.store.close()


def test_what_is_not_critical_waits_for_others_to_join(desk):
    at = desk()
    at.store.apply([detection(0)], SIZE)
    assert at.told() == []
    at.store.apply([], SIZE + MINUTE - 1)
    assert at.told() == []
    at.store.apply([], SIZE + MINUTE)
    assert at.told() == [("opened", "high")]


def test_a_critical_incident_is_notified_at_once(desk):
    at = desk()
    at.store.apply([detection(0, None, severity=Severity.CRITICAL)], SIZE)
    assert at.told() == [("opened", "critical")]


def test_a_stream_that_stands_still_holds_nothing_back(desk):
    at = desk()
    at.store.apply([detection(0)], SIZE)
    at.clock.advance(timedelta(minutes=1))
    at.store.apply([], SIZE)
    assert at.told() == [("opened", "high")]


def test_a_restart_keeps_waiting_incidents(desk):
    at = desk()
    at.store.apply([detection(0)], SIZE)
    at.store.commit()
    at.store.restart()
    at.store.apply([], SIZE + MINUTE)
    assert at.told() == [("opened", "high")]


def test_a_long_waiting_incident_is_notified_after_it_closed(desk):
    at = desk(hold=timedelta(hours=2))
    at.store.apply([detection(0)], SIZE)
    at.store.apply([], 90 * MINUTE)
    at.store.commit()
    at.store.restart()
    at.store.apply([], 100 * MINUTE)
    assert at.told() == []
    at.store.apply([], SIZE + 120 * MINUTE)
    assert at.told() == [("opened", "high")]


def test_a_campaign_is_notified_once_and_its_actors_are_not(desk):
    at = desk()
    for user in range(50):
        at.store.apply([detection(user * 500, user)], SIZE + user * 500)
    at.store.apply([], 3 * MINUTE)
    (campaign,) = at.store.list()
    assert (campaign.campaign, len(campaign.actors), campaign.notifications) == (True, 50, 1)
    assert at.told() == [("opened", "high")]


def test_a_slowly_growing_campaign_is_notified_for_its_first_actor_only(desk):
    at = desk()
    for user in range(8):
        at.store.apply([detection(user * 2 * MINUTE, user)], SIZE + user * 2 * MINUTE)
    (campaign,) = at.store.list()
    assert campaign.notifications == 1


def test_many_of_little_gravity_are_a_class_graver_and_never_critical(desk):
    at = desk()
    at.store.apply([detection(0, user, severity=Severity.MEDIUM) for user in range(4)], SIZE)
    at.store.apply([], 30 * MINUTE)
    assert at.told() == []
    at.store.apply([detection(60 * MINUTE, user, severity=Severity.MEDIUM) for user in range(5)], 60 * MINUTE)
    assert {incident.severity for incident in at.store.list() if incident.campaign} == {Severity.HIGH}


def test_two_actors_without_a_campaign_are_both_notified(desk):
    at = desk()
    at.store.apply([detection(0, 1), detection(0, 2)], SIZE)
    at.store.apply([], SIZE + MINUTE)
    assert at.told() == [("opened", "high")]
    at.store.apply([], SIZE + 10 * MINUTE)
    assert at.told() == [("opened", "high")] * 2


def test_each_higher_severity_is_notified_once(desk):
    at = desk(severity=Severity.MEDIUM)
    at.store.apply([detection(0, severity=Severity.MEDIUM)], SIZE + MINUTE)
    for start_ms in (1_000, 2_000):
        at.store.apply([detection(start_ms, severity=Severity.HIGH)], SIZE + MINUTE)
    assert at.told() == [("opened", "medium"), ("raised", "high")]


def test_other_rules_and_a_flood_around_it_send_nothing_new(desk):
    at = desk()
    at.store.apply([detection(0)], SIZE + MINUTE)
    at.store.apply([detection(1_000, rule="user_breadth")], SIZE + MINUTE)
    at.store.apply([detection(2_000, None, rule="volume", label="owasp.oat-015")], SIZE + 5 * MINUTE)
    (incident,) = at.store.list()
    assert (incident.rule, incident.episodes, incident.notifications) == ("volume", 3, 1)


def test_a_surge_is_informational_whatever_the_rule_says(desk):
    at = desk()
    at.store.apply([detection(0, None, severity=Severity.CRITICAL, nature=Nature.SURGE)], SIZE + MINUTE)
    assert at.store.list()[0].severity is Severity.INFORMATIONAL
    assert at.told() == []


def test_a_sale_that_hides_an_attack_is_raised_to_it(desk):
    at = desk()
    at.store.apply([detection(0, None, rule="volume", nature=Nature.SURGE)], SIZE + MINUTE)
    at.store.apply([detection(1_000, None, rule="volume")], SIZE + MINUTE)
    assert at.told() == [("opened", "high")]
    assert at.store.list()[0].nature is Nature.ATTACK


def test_a_false_positive_is_not_notified_again(desk):
    at = desk(severity=Severity.MEDIUM)
    at.store.apply([detection(0, severity=Severity.MEDIUM)], SIZE + MINUTE)
    at.store.set_status(at.store.list()[0].id, TriageStatus.FALSE_POSITIVE, comment="ours")
    at.store.apply([detection(1_000, severity=Severity.CRITICAL)], SIZE + MINUTE)
    assert at.told() == [("opened", "medium")]


def test_what_an_allow_list_covers_is_no_incident(desk):
    at = desk()
    at.store.apply([detection(0, suppression=Suppression("staff.pricing", "our own"))], SIZE)
    assert at.store.list() == []
