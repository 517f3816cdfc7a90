"""Allow-lists: what they take, what they refuse, and which detections they cover."""

import re
import shutil
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from factories import make_detection
from shopstream.cli import app
from shopstream.clock import to_ms
from shopstream.detection.allowlist import ALLOW_LIST_FILES, ALLOWED, AllowList, agent_hash, load_allow_list
from shopstream.detection.rule import load_rules
from shopstream.engine.compile import batch_sql
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import ConfigurationError, RuleError
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.ruletools.rule_test import read_test

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
GOOD = """\
entries:
  - id: crawler
    reason: Search engine; its networks were checked by reverse lookup on 2026-10-01.
    expires: 2027-03-31
    actors:
      ip_net: [192.0.2.0/23]
      agent: [GoodBot/2.1]
  - id: staff
    reason: The catalogue team.
    expires: 2027-03-31T12:00:00Z
    actors: {user_id: [1001, 1002]}
    rules: [user_*]
  - id: black_friday
    reason: Announced sale.
    expires: 2026-12-01
    sale: {from: 2026-11-27, until: 2026-11-30T00:00:00Z, kinds: [site, category_id], category_id: [7]}
"""


def written(tmp_path, text, name="all.yml"):
    file = tmp_path / name
    file.write_text(textwrap.dedent(text))
    return file


def listed(tmp_path, text=GOOD) -> AllowList:
    written(tmp_path, text)
    return load_allow_list(tmp_path)


def detection(key, *, at=NOW, **changes):
    return make_detection(to_ms(at), key, **({"tags": ("owasp.oat-015",)} | changes))


def entry_of(allow_list, found):
    (marked,) = allow_list.mark([found])
    return marked.suppression and marked.suppression.entry


def test_a_file_becomes_entries_with_their_place(tmp_path):
    entries = ALLOW_LIST_FILES.load(written(tmp_path, GOOD))["all"]
    assert [(entry.id, entry.line, entry.name) for entry in entries] == [
        ("crawler", 2, "all.crawler"),
        ("staff", 8, "all.staff"),
        ("black_friday", 13, "all.black_friday"),
    ]
    assert entries[0].expires == datetime(2027, 3, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("    reason: The catalogue team.\n", "", 8, "reason: missing; say why"),
        ("    expires: 2026-12-01\n", "", 13, "expires: missing; write the day"),
        ("expires: 2026-12-01", "expires: soon", 15, "expected a day or a time"),
        ("id: staff", "id: Staff", 8, "lower-case words"),
        ("id: staff", "id: crawler", 8, "is used twice"),
        ("192.0.2.0/23", "192.0.2.0/33", 6, "write e.g. {user_id"),
        ("192.0.2.0/23", "192.0.2.1/23", 6, "has host bits set"),
        ("192.0.2.0/23", "2001:db8::/33", 6, "/16, /32 or /48"),
        ("[1001, 1002]", "['1001']", 11, "actors.user_id.0"),
        ("{user_id: [1001, 1002]}", "{}", 11, "expected user_id, ip, ip_net or agent"),
        ("{user_id: [1001, 1002]}", "{users: [1001, 1002]}", 11, "actors.users"),
        ("kinds: [site, category_id]", "kinds: [everything]", 16, "sale.kinds.0"),
        ("until: 2026-11-30T00:00:00Z", "until: 2026-11-20", 16, "expected until after from"),
        ("rules: [user_*]", "rule: [user_*]", 12, "unknown word 'rule'"),
        ("rules: [user_*]", "sale: {from: 2026-11-27, until: 2026-11-28, kinds: [site]}", 8, "one of the two"),
        ("entries:\n", "entries: []\nmore: x\nother:\n", 2, "unknown word 'more'; known words are entries"),
    ],
)
def test_a_wrong_entry_is_reported_with_line_and_remedy(tmp_path, old, new, line, said):
    assert old in GOOD
    _, problems = ALLOW_LIST_FILES.read(written(tmp_path, GOOD.replace(old, new)))
    assert any(said in problem.problem for problem in problems), problems
    assert line in {problem.line for problem in problems}, problems


@pytest.mark.parametrize("text", ["entries: 5\n", "- a\n", "other: []\n", "entries: [5]\n", "entries: [{id: [a]}]\n"])
def test_files_that_are_no_allow_lists_are_refused(tmp_path, text):
    files, problems = ALLOW_LIST_FILES.read(written(tmp_path, text))
    assert files == {}
    assert problems
    with pytest.raises(RuleError, match=r"all\.yml:\d+:"):
        load_allow_list(tmp_path)


def test_a_folder_that_is_missing_is_reported(tmp_path):
    with pytest.raises(ConfigurationError, match="expected allow-list files at"):
        load_allow_list(tmp_path / "none")


def test_another_file_ending_is_a_problem_and_not_a_silence(tmp_path):
    written(tmp_path, GOOD, "all.yaml")
    with pytest.raises(RuleError, match=r"rename it to all\.yml"):
        load_allow_list(tmp_path)


def test_without_a_folder_nothing_is_suppressed():
    allow_list = load_allow_list(None)
    found = detection({"user_id": "1001"})
    assert allow_list.mark([found]) == [found]


def test_an_actor_is_covered_for_the_rules_that_the_entry_names(tmp_path):
    allow_list = listed(tmp_path)
    assert entry_of(allow_list, detection({"user_id": "1001"})) == "all.staff"
    assert entry_of(allow_list, detection({"user_id": "1003"})) is None
    assert entry_of(allow_list, detection({"user_id": "1001"}, rule="card_testing")) is None


def test_an_entry_ends_with_the_day_it_expires(tmp_path):
    allow_list = listed(tmp_path)
    last = datetime(2027, 3, 31, 11, 59, 40, tzinfo=UTC)
    assert entry_of(allow_list, detection({"user_id": "1001"}, at=last)) == "all.staff"
    assert entry_of(allow_list, detection({"user_id": "1001"}, at=last + timedelta(seconds=20))) is None


@pytest.mark.parametrize(
    ("text", "key", "covered"),
    [
        ("{ip: [192.0.2.7]}", {"ip": "192.0.2.7"}, True),
        ("{ip: ['2001:db8::7']}", {"ip": "2001:DB8:0::7"}, True),
        ("{ip: [192.0.2.7]}", {"ip": "192.0.2.8"}, False),
        ("{ip: [192.0.2.7]}", {"ip": "no address"}, False),
        ("{ip: [192.0.2.7]}", {"ip_net": "192.0.2.0/24"}, False),
        ("{ip_net: [192.0.2.0/23]}", {"ip": "192.0.3.9"}, True),
        ("{ip_net: [192.0.2.0/23]}", {"ip_net": "192.0.3.0/24"}, True),
        ("{ip_net: [192.0.2.0/25]}", {"ip_net": "192.0.2.0/24"}, False),
        ("{ip_net: ['2001:db8::/32']}", {"ip_net": "2001:db8:5::/48"}, True),
        ("{ip_net: [192.0.2.0/23]}", {"ip_net": "nonsense"}, False),
        ("{agent: [GoodBot/2.1]}", {"agent_hash": agent_hash("GoodBot/2.1")}, True),
        ("{agent: [GoodBot/2.1]}", {"user_agent": "GoodBot/2.1"}, True),
        ("{agent: [GoodBot/2.1]}", {"agent_hash": "0"}, False),
        ("{agent: [GoodBot/2.1], ip_net: [192.0.2.0/23]}", {"ip_net": "192.0.2.0/24"}, False),
    ],
)
def test_a_key_is_held_against_every_word_of_an_entry(tmp_path, text, key, covered):
    allow_list = listed(tmp_path, f"entries:\n  - {{id: one, reason: r, expires: 2027-01-01, actors: {text}}}\n")
    assert (entry_of(allow_list, detection(key)) is not None) == covered


@pytest.mark.parametrize(
    ("found", "covered"),
    [
        (detection({}, rule="site_rate"), True),
        (detection({}, rule="site_rate", tags=("owasp.oat-001",)), False),
        (detection({}, rule="composition", tags=("owasp.oat-011", "owasp.oat-015")), False),
        (detection({}, rule="site_rate", at=datetime(2026, 11, 26, 23, 59, 55, tzinfo=UTC)), False),
        (detection({}, rule="site_rate", at=datetime(2026, 11, 29, 23, 59, 55, tzinfo=UTC)), False),
        (detection({"category_id": "7"}, rule="volume"), True),
        (detection({"category_id": "8"}, rule="volume"), False),
        (detection({"product_id": "7"}, rule="volume"), False),
        (detection({"user_id": "7"}), False),
    ],
)
def test_a_sale_covers_floods_of_its_kinds_in_its_time(tmp_path, found, covered):
    assert entry_of(listed(tmp_path), found) == ("all.black_friday" if covered else None)


def test_the_shipped_rules_about_the_whole_site_that_a_sale_covers_are_those_of_floods(tmp_path):
    allow_list = listed(tmp_path)
    rules = [rule for rule in load_rules().values() if not rule.key]
    covered = {r.id for r in rules if entry_of(allow_list, detection({}, rule=r.id, tags=r.tags))}
    assert "site_rate" in covered
    assert not [rule.id for rule in rules if rule.id in covered and "owasp.oat-001" in rule.tags]


# what the key does not say, the events of the window do

BURST = WindowDeclaration(
    "user_burst", WindowKind.TUMBLING, ("user_id",), {"events": "count(*)"}, 10_000, condition="events > 1"
)


def windows_of(allow_list, rows):
    import pyarrow as pa  # noqa: PLC0415  only here

    declaration = allow_list.watch(BURST, "user_burst")
    common = {"event_type": "view", "product_id": 1, "category_id": 1, "price": 1}
    events = pa.Table.from_pylist(
        [
            common | {"event_time": NOW + timedelta(seconds=place), "user_id": user, "ip": ip, "user_agent": agent}
            for place, (user, ip, agent) in enumerate(rows)
        ],
        schema=WIRE_SCHEMA,
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", events)
        rows = connection.execute(batch_sql(declaration, "events")).fetchall()
    return {row[0]: dict(zip(declaration.measures, row[5:], strict=True)) for row in rows}


@pytest.mark.parametrize(
    ("events", "number"),
    [
        ([(5, "192.0.2.1", "GoodBot/2.1"), (5, "192.0.3.255", "GoodBot/2.1")], 1),
        ([(5, "192.0.2.1", "GoodBot/2.1"), (5, "192.0.4.0", "GoodBot/2.1")], 0),
        ([(5, "192.0.2.1", "GoodBot/2.1"), (5, "192.0.2.1", "Firefox")], 0),
        ([(5, "192.0.2.1", "GoodBot/2.1"), (5, None, None)], 0),
        ([(5, "192.0.2", "GoodBot/2.1"), (5, "' or 1=1", "GoodBot/2.1")], 0),
    ],
)
def test_a_crawler_under_new_ids_is_known_by_all_its_events(tmp_path, events, number):
    allow_list = listed(tmp_path)
    measures = windows_of(allow_list, events)[5]
    assert measures == {"events": 2, ALLOWED: number}
    (marked,) = allow_list.mark([detection({"user_id": "5"}, measures=measures)])
    assert marked.measures == {"events": 2}
    assert (marked.suppression is not None) == bool(number)


def test_ipv6_networks_are_known_by_their_groups(tmp_path):
    text = "entries:\n  - {id: six, reason: r, expires: 2027-01-01, actors: {ip_net: ['2001:db8::/32']}}\n"
    allow_list = listed(tmp_path, text)
    inside = [(5, "2001:db8:1::7", None), (5, "2001:DB8:ffff::1", None)]
    outside = [(6, "2001:db8:1::7", None), (6, "2001:db80:1::7", None)]
    assert {user: m[ALLOWED] for user, m in windows_of(allow_list, inside + outside).items()} == {5: 1, 6: 0}


def test_values_of_entries_are_text_in_sql_and_no_more(tmp_path):
    text = """entries:
      - {id: odd, reason: r, expires: 2027-01-01, actors: {agent: ["x') or true --", "O'Bot"]}}
    """
    allow_list = listed(tmp_path, text)
    mine, others = [(5, None, "O'Bot"), (5, None, "x') or true --")], [(6, None, "Firefox"), (6, None, "x")]
    assert {user: m[ALLOWED] for user, m in windows_of(allow_list, mine + others).items()} == {5: 1, 6: 0}


def test_only_rules_about_actors_that_an_entry_means_carry_the_hidden_measure(tmp_path):
    allow_list = listed(tmp_path)
    assert ALLOWED in allow_list.watch(BURST, "user_burst").measures
    site = WindowDeclaration("site", WindowKind.TUMBLING, (), {"events": "count(*)"}, 10_000)
    assert allow_list.watch(site, "site") is site
    staff_only = AllowList([entry for entry in allow_list.entries if entry.id == "staff"])
    assert staff_only.watch(BURST, "user_burst") is BURST, "the key says it all"


# commands


def invoke(*arguments, allow=None):
    environment = {"SHOPSTREAM_DETECTION__ALLOW_LISTS_PATH": str(allow)} if allow else {}
    return CliRunner().invoke(app, ["rules", "allowlist", *arguments], env=environment)


def test_entries_are_listed_with_what_is_left_of_them(tmp_path):
    written(tmp_path, GOOD.replace("2026-12-01", "2020-12-01").replace("2027-03-31", "2999-03-31"))
    done = invoke("list", "--format", "csv", allow=tmp_path)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("entry,allows,rules,reason,expires,state,file,line")
    assert "days left" in lines[1]
    assert "user_id 1001, 1002" in lines[2]
    assert "expired" in lines[3]


def test_a_check_lists_mistakes_and_expired_entries(tmp_path):
    file = written(tmp_path, GOOD.replace("2026-12-01", "2020-12-01"))
    done = invoke("check", allow=tmp_path)
    assert done.exit_code == 0
    assert f"{file}:13: expired entry black_friday: suppresses nothing since 2020-12-01" in done.stdout
    file.write_text(GOOD.replace("reason: The", "reasons: The"))
    done = invoke("check", str(file))
    assert done.exit_code == 1
    assert f"{file}:9: allow-list all: entries.1.reasons: unknown word 'reasons'" in done.stdout
    assert "0 good, 2 wrong" in done.stdout


def test_expired_entries_are_warned_of_by_doctor_and_by_the_check_of_rules(tmp_path):
    written(tmp_path, GOOD.replace("2026-12-01", "2020-12-01"))
    environment = {"SHOPSTREAM_DETECTION__ALLOW_LISTS_PATH": str(tmp_path)}
    done = CliRunner().invoke(app, ["--home", str(tmp_path / "home"), "doctor", "--format", "csv"], env=environment)
    assert 'allow-lists,False,"expired, so that they suppress nothing: all.black_friday' in done.stdout
    done = CliRunner().invoke(app, ["rules", "check"], env=environment)
    assert done.exit_code == 0
    assert "allow-list entry black_friday expired on 2020-12-01" in done.stderr


def test_the_examples_of_the_documentation_are_read(tmp_path):
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    case, entries = re.findall(r"^```yml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [entry.id for entry in listed(tmp_path, entries).entries] == [
        "good_crawler",
        "catalogue_team",
        "black_friday",
    ]
    shutil.copy(ROOT / "tests" / "rules" / "user_burst" / "events.csv", tmp_path)
    (tmp_path / "expected.yml").write_text(case)
    assert read_test(tmp_path).incidents[0].keys == {"user_id": "1001"}
