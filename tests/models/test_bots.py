"""Verdicts on actors reach the reports: figures without bots, and beside them those with bots."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from shopstream.dashboard.panels import reports_panel
from shopstream.engine.derived_columns import DERIVED_FIELDS
from shopstream.incidents.verdicts import VERDICT_SCHEMA
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.models.dbt import build
from shopstream.models.names import Bots, ReportName
from shopstream.models.reports import report, scope

NOON = datetime(2019, 11, 1, 12, tzinfo=UTC)
UNTIL = NOON.replace(minute=10)
CURL = duckdb.execute("select left(md5('curl'), 16)").fetchall()[0][0]


def verdicts(*actors, verdict="bot"):
    return pa.Table.from_pylist(
        [
            {
                "actor_kind": kind,
                "actor": actor,
                "verdict": verdict,
                "from_time": NOON,
                "until_time": UNTIL,
                "why": "Too many products in an hour",
                "rule": "user_breadth",
                "incident_id": "3fa9c1d2e4b70a55-1",
            }
            for kind, actor in actors
        ],
        schema=VERDICT_SCHEMA,
    )


def events_with_a_bot(event):
    """Shoppers 1 and 2 of an afternoon, and shopper 9, who looks at everything, carts and once buys."""
    rows = [
        event(1, "2019-11-01 12:00:00", "view", 1),
        event(2, "2019-11-01 12:01:00", "cart", 1),
        event(3, "2019-11-01 12:02:00", "purchase", 1),
        event(4, "2019-11-01 12:03:00", "cart", 2, product=2, brand="nan"),
    ]
    rows += [event(100 + n, f"2019-11-01 {8 + n:02}:05:00", "view", 9, product=2, brand="bait") for n in range(6)]
    rows += [event(200, "2019-11-01 12:05:00", "cart", 9), event(201, "2019-11-01 12:06:00", "purchase", 9, product=2)]
    return [{**row, "ip": "192.0.2.7", "user_agent": "curl"} if row["user_id"] == 9 else row for row in rows]


@pytest.fixture(scope="module")
def reports(tmp_path_factory, event, append):
    return built(tmp_path_factory.mktemp("home"), event, append, verdicts(("user_id", "9")))


def built(home, event, append, given):
    lake = EmbeddedLakehouse(home / "lake")
    append(lake, events_with_a_bot(event))
    result = build(lake, home / "reports.duckdb", "UTC", verdicts=given)
    lake.close()
    return result.reports_path


def figures(path, mart, columns, where="true"):
    with duckdb.connect(path, read_only=True) as connection:
        return connection.execute(f"select {columns} from {mart} where {where}").fetchall()


def test_a_bots_whole_day_is_left_out_of_the_visitors_and_counted_beside(reports):
    columns = "visitors, events, purchases, revenue, visitors_with_bots, events_with_bots, revenue_with_bots"
    assert figures(reports, "unique_visitors", columns) == [(2, 4, 1, Decimal(10), 3, 12, Decimal(20))]


def test_the_scope_counts_excluded_events(reports):
    found = scope(reports)
    assert (found.events, found.bot_events, found.visitors, found.visitors_with_bots, found.bot_actors) == (
        12,
        8,
        2,
        3,
        1,
    )


def test_a_bots_cart_is_listed_as_a_bots_and_summed_with_bots_only(reports):
    assert figures(reports, "abandoned_carts", "user_id, is_bot", "true order by 1") == [
        (2, False),
        (9, True),
    ]
    columns = "cart_lines, purchases_without_cart, cart_lines_with_bots, purchases_without_cart_with_bots"
    assert figures(reports, "abandoned_carts_daily", columns) == [(2, 0, 3, 1)]


@pytest.mark.parametrize(("bots", "brands"), [(Bots.EXCLUDE, ["acme", "nan"]), (Bots.INCLUDE, ["acme", "bait", "nan"])])
def test_a_brand_that_bots_alone_saw_is_listed_with_bots_only(reports, bots, brands):
    found = report(ReportName.BRAND_MARKETING, reports, bots=bots)
    assert sorted(row["brand"] for row in found.rows) == brands


def test_a_report_with_bots_has_the_columns_of_one_without(reports):
    for name in ReportName:
        without, including = (report(name, reports, bots=bots) for bots in (Bots.EXCLUDE, Bots.INCLUDE))
        assert list(without.rows[0]) == list(including.rows[0])
        assert without.main_columns == including.main_columns
        assert without.total_rows <= including.total_rows


def test_both_put_the_figures_with_bots_behind_the_others(reports):
    without = report(ReportName.UNIQUE_VISITORS, reports)
    both = report(ReportName.UNIQUE_VISITORS, reports, bots=Bots.BOTH)
    assert both.rows[0] | without.rows[0] == both.rows[0]
    assert (both.rows[0]["visitors"], both.rows[0]["visitors_with_bots"]) == (2, 3)
    assert both.headline == without.headline == "2 visitors on one day, 2019-11-01"
    assert set(both.main_columns) <= set(both.rows[0])


@pytest.mark.parametrize("name", list(ReportName))
def test_every_report_can_show_both(reports, name):
    found = report(name, reports, bots=Bots.BOTH)
    assert set(found.main_columns) <= set(found.rows[0])


def test_a_report_states_the_number_of_excluded_events(reports):
    told = {bots: report(ReportName.TOP_CATEGORIES, reports, bots=bots).bots_note for bots in Bots}
    assert told[Bots.EXCLUDE].startswith("8 of 12 events come from bots (verdicts on 1 actors): excluded")
    assert told[Bots.INCLUDE].endswith("included in these figures.")


def test_without_verdicts_both_figures_are_the_same_and_nothing_is_said(tmp_path, event, append):
    path = built(tmp_path, event, append, None)
    assert report(ReportName.UNIQUE_VISITORS, path).bots_note == ""
    for name in ReportName:
        without, including = (report(name, path, bots=bots) for bots in (Bots.EXCLUDE, Bots.INCLUDE))
        assert (without.headline, without.rows) == (including.headline, including.rows)


@pytest.mark.parametrize(
    ("given", "bot_events"),
    [
        # only while the incident lasts: of the bot's eight events, the three from 12:05 to 12:06
        (verdicts(("ip", "192.0.2.7"), ("ip_net", "192.0.2.0/24"), ("agent_hash", CURL), ("user_agent", "curl")), 3),
        (pa.concat_tables([verdicts(("user_id", "9")), verdicts(("user_id", "9"), verdict="human")]), 0),
    ],
    ids=["shared", "human"],
)
def test_shared_actors_are_bots_only_in_the_interval_and_human_overrides_bot(
    tmp_path, event, append, given, bot_events
):
    path = built(tmp_path, event, append, given)
    assert figures(path, "report_scope", "bot_events") == [(bot_events,)]


def test_networks_and_agents_are_those_of_the_engine(plain_macro):
    engine = {field.name: field.sql for field in DERIVED_FIELDS}
    addresses = ("192.0.2.7", "2001:DB8:1:2::3", "2001:db8::1", ":", "unknown", "", None)
    agents = ("curl", "", "ü", "?", "a b", "%", None)
    for name, column in (("ip_net", "ip"), ("agent_hash", "user_agent")):
        sql = f"select {plain_macro(name)(column)}, {engine[name]} from (select unnest(?) ip, unnest(?) user_agent)"
        for ours, theirs in duckdb.execute(sql, [list(addresses), list(agents)]).fetchall():
            assert ours == theirs


def test_the_dashboard_shows_figures_without_bots_and_how_many_were_left_out(reports):
    panel = reports_panel(reports)
    assert panel["scope"]["visitors"] == 2
    assert (panel["scope"]["bot_events"], panel["scope"]["bot_visitors"], panel["scope"]["bot_actors"]) == (8, 1, 1)
    assert "bait" not in {row["brand"] for row in panel["brand_marketing"]["rows"]}
    assert sum(row["views"] for row in panel["categories"]) == 1


def test_the_command_takes_the_choice(reports):
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("shopstream"), "--home", reports.parent, "report", "unique_visitors"),
            *("--bots", "include", "--format", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["visitors"] == 3
