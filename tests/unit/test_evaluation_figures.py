"""From runs to figures, and how they are shown."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopstream.clock import to_ms
from shopstream.errors import ConfigurationError
from shopstream.evaluation.plan import (
    REPORTING_SEEDS,
    STRATA,
    TUNING_SEEDS,
    Shop,
    TimeUnit,
    evaluated_scenarios,
    seeds_of,
    stratum_of,
)
from shopstream.evaluation.report import Facts, markdown, time_text, write_report
from shopstream.evaluation.results import AttackResult, BaselineResult, FoundIncident, Timeline
from shopstream.evaluation.runner import RunResults
from shopstream.evaluation.runs import Cache, _draw
from shopstream.evaluation.scoring import Unit, percentile, rule_of_three
from shopstream.evaluation.summary import summarise
from shopstream.incidents.incident import wilson

ROWS = evaluated_scenarios()
FACTS = Facts(
    seeds=[1000, 1001],
    test_days=1,
    tuning=True,
    commit="abc",
    machine="some",
    finished=datetime(2026, 1, 1, tzinfo=UTC),
    minutes=1.0,
    partial=False,
    tracker=False,
    history_days=14,
)


def brief(rule="volume", *, severity="high", nature="attack", actor=False, resident=False, notifications=1):
    key = {"user_id": "1"} if actor else {}
    return FoundIncident(
        "id", rule, severity, nature, key, 0, 0, 0, notifications=notifications, note="<b>note</b>", resident=resident
    )


def timeline(*, missed):
    return Timeline(
        "</script>",
        60_000,
        [0, 60_000],
        [5, 6],
        [0, 3],
        [5.0, 5.0],
        (0, 60_000),
        [(0, "x")],
        [(0, 60_000)],
        "n",
        missed,
    )


def attack(scenario, *, seed=1000, after_s=10.0, actors=(), true=(), false=(), surges=(), **changes):
    facts = {
        "place": 0,
        "from_ms": 0,
        "until_ms": 600_000,
        "nature": "attack",
        "key": {},
        "parameters": {"factor": 3},
        "rate": 20.0,
        "events": 100,
        "hostile": 50,
        "found_after_s": after_s,
        "events_until": None if after_s is None else 7,
        "progress": None if after_s is None else 0.25,
        "timelines": [timeline(missed=after_s is None)],
        "nearest": "nothing" if after_s is None else "",
        "seconds": 1.0,
    }
    return AttackResult(
        scenario=scenario, seed=seed, actors=actors, true=true, false=false, surges=surges, **facts | changes
    )


def without_attack(*incidents, seed=1000, events=1_000_000):
    return BaselineResult(seed, 1, events, incidents, {"site": 0.05}, {"site": 0.06}, [timeline(missed=False)], 1.0)


def summary_of(*attacks, days=()):
    results = RunResults(list(days) or [without_attack()])
    for run in attacks:
        results.attacks.setdefault(run.scenario, []).append(run)
    return summarise(results, ROWS)


def test_tuning_and_reporting_seeds_are_disjoint():
    assert set(REPORTING_SEEDS).isdisjoint(TUNING_SEEDS)
    assert seeds_of(2, tuning=True) == (1000, 1001)
    assert seeds_of(2, tuning=False) == (1, 2)


def test_more_seeds_than_there_are_is_an_error():
    with pytest.raises(ConfigurationError, match="1 to 99 seeds"):
        seeds_of(100, tuning=False)


def test_over_six_seeds_a_scenario_covers_every_stratum():
    assert {stratum_of("pulse", 0, seed) for seed in range(6)} == set(range(len(STRATA)))


def test_attacks_begin_in_the_hours_of_their_stratum():
    for seed in range(20):
        shop = Shop(seed)
        for moment, (low, high) in zip(shop.moments(), STRATA, strict=True):
            assert shop.test_from <= moment < shop.test_until
            assert low <= moment.hour + moment.minute / 60 + moment.second / 3600 <= high


def test_a_shop_without_history_is_an_error():
    with pytest.raises(ConfigurationError, match="day of history"):
        Shop(1, history_days=0)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_s_interval_holds_the_share(hits, more):
    low, high = wilson(hits, hits + more)
    assert 0 <= low <= hits / (hits + more) <= high <= 1


def test_wilson_s_interval_has_known_values():
    assert wilson(0, 0) == (0, 1)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_percentiles_lie_between_neighbours():
    assert percentile([], 0.5) is None
    assert percentile([3.0, 1.0], 0.5) == 2.0
    assert percentile([1.0, 2.0, 10.0], 0.95) == pytest.approx(9.2)


def test_a_count_of_zero_bounds_the_rate_at_three_by_n():
    assert rule_of_three(0, 3.0) == 1.0
    assert rule_of_three(4, 1.0) > 4


def test_every_scenario_has_an_evaluation_with_a_target():
    for row in ROWS.values():
        assert row.control == (row.recall is None)
        assert row.control == (row.within is None)
    assert ROWS["metronome"].unit is Unit.ACTOR
    assert ROWS["site_flood"].unit is Unit.ATTACK
    assert ROWS["slow_ramp"].time_unit is TimeUnit.FACTOR


def test_a_scenario_meets_its_goal_if_recall_and_time_do():
    assert summary_of(attack("site_flood")).rows[0].reached
    assert not summary_of(attack("site_flood", after_s=31.0)).rows[0].reached
    assert not summary_of(attack("site_flood"), attack("site_flood", after_s=None)).rows[0].reached


def test_recall_of_single_bots_counts_bots():
    row = summary_of(attack("metronome", actors=[(60.0, 12), (90.0, 18), None])).rows[0]
    assert (row.found, row.trials, row.median) == (2, 3, 15)


def test_a_ramp_is_timed_by_its_factor():
    row = summary_of(attack("slow_ramp")).rows[0]
    assert row.median == 1.5
    assert time_text(row.median, row.time_unit) == "1.50x"


def test_incidents_of_residents_and_surges_are_not_false():
    day = without_attack(brief(actor=True, resident=True), brief(nature="surge", severity="informational"))
    figures = summary_of(days=[day]).baseline
    assert (figures.site, figures.actors, figures.residents, figures.surges) == (0, 0, 1, 1)


def test_false_incidents_are_classified_and_scaled():
    day = without_attack(brief(), brief("user_burst", actor=True), events=2_000_000)
    figures = summary_of(days=[day]).baseline
    assert (figures.site_per_week, figures.actors_per_million) == (7, 0.5)
    assert figures.per_rule == {"volume": 1, "user_burst": 1}


def test_precision_counts_attack_runs_and_days_without_attacks():
    figures = summary_of(attack("site_flood", true=[brief()] * 3, false=[brief()]), days=[without_attack(brief())])
    assert (figures.true, figures.false, figures.precision) == (3, 2, 0.6)


def test_notifications_are_counted_per_notified_incident():
    run = attack("site_flood", true=[brief(notifications=2), brief(notifications=0), brief()])
    assert summary_of(run).notifications_per_incident == 1.5


@pytest.mark.parametrize(
    ("told", "good"),
    [
        ([], True),
        ([brief(severity="informational", nature="surge")], True),
        ([brief(severity="informational")] * 2, False),
        ([brief(severity="critical")], False),
        ([brief(severity="low")], False),
    ],
)
def test_a_control_may_have_one_informational_incident(told, good):
    assert summary_of(attack("flash_sale", after_s=None, false=told)).controls[0].reached is good


def test_a_cache_folder_is_made_once_per_digest(tmp_path):
    made = []
    cache = Cache(tmp_path, Shop(1000))

    def make(folder):
        made.append(folder)
        (folder / "x").write_text("x")

    first = cache.folder("some", "a", make)
    assert cache.folder("some", "a", make) == first
    second = cache.folder("some", "b", make)
    assert len(made) == 2
    assert (second / "x").is_file()
    assert not first.exists()


def test_a_report_needs_no_network_and_escapes_text(tmp_path):
    runs = [attack("site_flood", after_s=None, false=[brief()]), attack("flash_sale", after_s=None)]
    results = RunResults([without_attack(brief())], {run.scenario: [run] for run in runs})
    write_report(tmp_path, results, summarise(results, ROWS), FACTS, tmp_path / "page.md")
    page = (tmp_path / "report.html").read_text()
    assert "src=" not in page.split("Plotly.newPlot")[-1]
    assert "<b>note</b>" not in page
    assert page.count("</script>") == 3
    document = json.loads((tmp_path / "evaluation.json").read_text())
    assert document["rows"][0]["scenario"] == "site_flood"
    assert (tmp_path / "page.md").read_text() == (tmp_path / "summary.md").read_text()


def test_the_summary_names_seeds_and_missed_scenarios():
    results = RunResults([without_attack()], {"site_flood": [attack("site_flood", after_s=None)]})
    text = markdown(summarise(results, ROWS), FACTS)
    assert "missed: site flood" in text
    assert "no seed in common" in text
    assert "These figures are no evidence" in text


def test_on_a_calm_day_the_target_is_a_quieter_product_and_the_parameters_state_it():
    row, eased = evaluated_scenarios()["product_flood"], 0
    for seed in range(1_000, 1_006):
        shop = Shop(seed)
        moment, case, until_ms = _draw(shop, row, 0)
        assert moment in shop.moments()
        assert until_ms > to_ms(case.start + case.duration)
        eased += case.parameters.get("min_rate", 0.5) < 0.5
    assert 0 < eased < 6
