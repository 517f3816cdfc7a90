"""The rule language: what it takes, what it refuses, and how it says so."""

import json
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from factories import make_signal
from shopstream.cli import app
from shopstream.clock import format_duration, parse_duration
from shopstream.detection.detection import Severity
from shopstream.detection.expression import check_condition, check_filter, check_measure
from shopstream.detection.rule import RULE_FILES, Rule, load_rules
from shopstream.detection.rule_matcher import detect, detection_id
from shopstream.engine.window import WindowKind
from shopstream.errors import ConfigurationError, RuleError
from shopstream.yaml_files import MAX_BYTES

GOOD = """\
title: Many carts
id: many_carts
status: test
description: Carts in ten minutes.
level: medium
falsepositives: [a party]
key: [user_id]
window: {kind: sliding, size: 10m, slide: 1m}
filter: event_type = 'cart'
measures:
  carts: count(*)
  products: count(distinct product_id)
  value: sum(price)
condition: carts > 15 and products >= 2
suppress_for: 15m
"""


def written(tmp_path, text, name="many_carts.yml"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    return file


def read_rule(file):
    rules, problems = RULE_FILES.read(file)
    return rules.get(file.stem), problems


def problems_of(tmp_path, text, name="many_carts.yml"):
    rule, problems = read_rule(written(tmp_path, text, name))
    assert (rule is None) == bool(problems)
    return problems


def test_a_rule_becomes_a_window_declaration(tmp_path):
    rule, problems = read_rule(written(tmp_path, GOOD))
    assert problems == []
    declaration = rule.window_declaration()
    assert declaration.name == "many_carts"
    assert declaration.kind is WindowKind.SLIDING
    assert (declaration.size_ms, declaration.slide_ms, declaration.gap_ms) == (600_000, 60_000, 0)
    assert declaration.key == ("user_id",)
    assert dict(declaration.measures) == {
        "carts": "COUNT(*)",
        "products": "COUNT(DISTINCT product_id)",
        "value": "SUM(price)",
    }
    assert declaration.filter == "event_type = 'cart'"
    assert declaration.condition == "carts > 15 AND products >= 2"
    assert rule.suppress_for == 900_000
    assert rule.level is Severity.MEDIUM


def test_the_version_of_a_rule_follows_its_content(tmp_path):
    one, _ = read_rule(written(tmp_path, GOOD))
    other, _ = read_rule(written(tmp_path, GOOD.replace("15 and", "16 and")))
    assert one.version != other.version


def test_a_session_and_a_tumbling_window_are_rules_too(tmp_path):
    text = GOOD.replace("{kind: sliding, size: 10m, slide: 1m}", "{kind: session, gap: 30m}")
    assert read_rule(written(tmp_path, text))[0].window_declaration().gap_ms == 1_800_000
    text = GOOD.replace("{kind: sliding, size: 10m, slide: 1m}", "{kind: tumbling, size: 10m}")
    assert read_rule(written(tmp_path, text))[0].window_declaration().slide_ms == 600_000


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("id: many_carts", "id: other", 2, "expected 'many_carts' as the file is named"),
        ("status: test", "status: fresh", 3, "take stable, test or experimental"),
        ("level: medium", "level: terrible", 5, "take informational, low, medium, high or critical"),
        ("level: medium", "levle: medium", 5, "unknown word 'levle'; did you mean 'level'?"),
        ("level: medium", "title: again", 5, "'title' stands here a second time"),
        ("falsepositives: [a party]", "falsepositives: []", 6, "name at least one plausible cause"),
        ("[user_id]", "[usr_id]", 7, "expected columns among"),
        ("[user_id]", "[user_id, user_id]", 7, "expected each column once"),
        ("[user_id]", "user_id", 7, "list columns"),
        ("[user_id]", "[price]", 7, "expected columns among"),
        (
            "15m\n",
            "15m\nincident_title: '{who} of {user_id}'\n",
            16,
            "expected fields among carts, products, value",
        ),
        ("size: 10m", "size: 10", 8, "expected a duration such as 500ms"),
        ("size: 10m", "size: -10m", 8, "expected a duration such as 500ms"),
        ("size: 10m", "size: 90d", 8, "at most 31d"),
        ("slide: 1m", "slide: 7m", 8, "whole multiple of the slide"),
        ("slide: 1m", "step: 1m", 8, "window.step"),
        ("kind: sliding", "kind: rolling", 8, "write e.g. {kind: sliding"),
        ("event_type = 'cart'", "event_type", 9, "expected a condition that is true or false"),
        ("event_type = 'cart'", "kind = 'cart'", 9, "unknown name 'kind'"),
        ("carts: count(*)", "user_id: count(*)", 11, "cannot name a measure"),
        ("carts: count(*)", "carts: median(price)", 11, "is not part of the rule language"),
        ("carts: count(*)", "carts: sum(brand)", 10, "the types do not match"),
        ("carts > 15", "clicks > 15", 14, "unknown name 'clicks'; known names are the rule's measures: carts"),
        ("carts > 15", "carts > (select 1)", 14, "is not part of the rule language"),
        ("suppress_for: 15m", "suppress_for: soon", 15, "write the quiet time"),
        ("title: Many carts\n", "", 1, "title: missing"),
    ],
)
def test_a_wrong_rule_is_reported_with_line_and_remedy(tmp_path, old, new, line, said):
    assert old in GOOD
    problems = problems_of(tmp_path, GOOD.replace(old, new))
    assert any(said in problem.problem for problem in problems), problems
    assert line in {problem.line for problem in problems}, problems
    assert str(problems[0]).startswith(f"{tmp_path / 'many_carts.yml'}:")
    assert all(problem.subject == "rule many_carts" for problem in problems)


def test_all_that_is_wrong_is_reported_at_once(tmp_path):
    text = GOOD.replace("level: medium", "level: terrible").replace("[user_id]", "[usr_id]")
    assert [problem.line for problem in problems_of(tmp_path, text)] == [5, 7]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"title: \xff\n", "expected UTF-8"),
        ("- a\n- b\n", "expected words with values"),
        ("", "expected words with values"),
        ("title: [\n", "no YAML"),
        ("title: &a x\nid: *a\n", "anchors and aliases are not allowed"),
        ("title: " + "[" * 40 + "]" * 40 + "\n", "nested more than"),
        ("title: !!python/object/apply:os.system [date]\n", "no YAML"),
        ("title: 2026-13-45\n", "put it in quotes"),
        ("1: x\n", "expected a word before the colon"),
        (b"a" * (MAX_BYTES + 1), "expected at most"),
    ],
)
def test_files_that_are_no_rules_are_refused(tmp_path, text, said):
    assert said in problems_of(tmp_path, text)[0].problem


def test_own_rules_replace_shipped_ones_by_id(tmp_path):
    shipped = load_rules()
    text = GOOD.replace("many_carts", "user_burst")
    written(tmp_path, text, "user_burst.yml")
    rules = load_rules(tmp_path)
    assert set(rules) == set(shipped)
    assert rules["user_burst"].headline == "Many carts"


def test_a_rule_is_switched_off_by_its_status(tmp_path):
    written(tmp_path, GOOD.replace("status: test", "status: unsupported"))
    rule = load_rules(tmp_path)["many_carts"]
    assert not rule.enabled
    assert detect([signal("many_carts")], {"many_carts": rule}) == []


def test_a_folder_that_is_missing_is_reported():
    with pytest.raises(ConfigurationError, match="expected rule files at"):
        load_rules(Path("/nowhere/at/all"))


def test_wrong_rules_are_one_error_with_a_line_each(tmp_path):
    written(tmp_path, GOOD.replace("level: medium", "level: terrible"))
    written(tmp_path, "title: x\n", "other.yml")
    with pytest.raises(RuleError) as error:
        load_rules(tmp_path)
    assert "many_carts.yml:5: rule many_carts: level" in str(error.value)
    assert "other.yml:1: rule other: description: missing" in str(error.value)


def test_another_file_ending_is_a_problem_and_not_a_silence(tmp_path):
    written(tmp_path, GOOD, "many_carts.yaml")
    assert "rename it to many_carts.yml" in RULE_FILES.read(tmp_path)[1][0].problem


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("count(*)", "COUNT(*)"),
        ("count(distinct product_id)", "COUNT(DISTINCT product_id)"),
        ("sum(case when event_type = 'cart' then 1 else 0 end)", None),
        ("avg(price) / nullif_", ""),
        ("max(price) - min(price)", "MAX(price) - MIN(price)"),
        ("count(*) filter (where event_type in ('cart', 'purchase'))", None),
        ("1.0 * sum(price) / count(*)", None),
        ("count(*) -- all of them", "COUNT(*)"),
    ],
)
def test_measures_are_arithmetic_over_aggregates(text, normalised):
    if normalised == "":
        with pytest.raises(ValueError, match="unknown name"):
            check_measure(text)
    else:
        assert check_measure(text) == (normalised or check_measure(check_measure(text)))


@pytest.mark.parametrize(
    "text",
    [
        "price",
        "1",
        "count(*) + price",
        "sum(count(*))",
        "count(price, brand)",
        "count(distinct price, brand)",
        "max(price, 3)",
        "sum(*)",
        "sum(distinct price)",
        "sum(price) over ()",
        "count(*); drop table events",
        "(select count(*) from events)",
        "count(*) from events",
        "sum(read_text('/etc/passwd'))",
        "sum(price::double)",
        "sum(cast(price as double))",
        "list(product_id)",
        "count(events.price)",
        "count($1)",
        "sum(if(true, 1, 0))",
        "sum(price) filter (where count(*) > 1)",
        "count(*) filter (where price)",
        "sum(price filter",
        "sum(len(brand))",
        "sum(price ** 2)",
        "sum(getenv('HOME'))",
        "count(*) as x",
        "max([1, 2])",
        "max({'a': 1})",
        "sum(price) " + "+ 1 " * 1_000,
        "not " * 400 + "count(*) > 1",
    ],
)
def test_what_is_not_listed_is_no_measure(text):
    with pytest.raises(ValueError, match=r"."):
        check_measure(text)


@pytest.mark.parametrize(
    "text",
    [
        "brand like 'a%'",
        "brand is null or price between 1 and 2",
        "not (price > 3 and brand <> 'nan')",
        "event_type in ('cart', 'purchase')",
        "case when price > 3 then 1 else 2 end = 1",
        "true",
        "price * 2 + -1 < 5 % 3",
    ],
)
def test_filters_are_conditions_over_event_columns(text):
    assert check_filter(check_filter(text)) == check_filter(text)


@pytest.mark.parametrize(
    "text",
    ["price", "price + 1", "brand in (select brand from x)", "brand ilike 'a'", "brand ~ 'a'", "brand = any([1])", ""],
)
def test_what_is_not_listed_is_no_filter(text):
    with pytest.raises(ValueError, match=r"."):
        check_filter(text)


def test_conditions_speak_of_measures_only():
    assert check_condition("events > 5 and users * 2 < events", {"events", "users"})
    with pytest.raises(ValueError, match="unknown name 'price'"):
        check_condition("price > 5", {"events"})
    with pytest.raises(ValueError, match="not part of the rule language"):
        check_condition("count(*) > 5", {"events"})


@pytest.mark.parametrize(("text", "ms"), [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("2h", 7_200_000)])
def test_durations_are_read_and_written(text, ms):
    assert parse_duration(text) == ms
    assert format_duration(ms) == text


def signal(window, **key):
    return make_signal(window, 11_000, key, measures={"events": 16})


def test_a_signal_of_a_rule_becomes_a_detection_with_the_rules_words():
    rules = load_rules()
    (detection,) = detect([signal("user_burst", user_id=7), signal("live_funnel")], rules)
    assert detection.detection_id == detection_id("user_burst", {"user_id": "7"}, 1_000)
    assert detection.rule_version == rules["user_burst"].version
    assert detection.key_kind == "user_id"
    assert detection.key == {"user_id": "7"}
    assert detection.threshold == "events > 15"
    assert detection.measures == {"events": 16}
    assert detection.suppress_for_ms == 300_000
    assert detection.final


DOCS = Path(__file__).resolve().parents[2] / "docs" / "rules.md"


def test_the_documented_example_is_a_good_rule(tmp_path):
    example = DOCS.read_text().partition("```yaml\n")[2].partition("```")[0]
    rule, problems = read_rule(written(tmp_path, example, "cart_hoarder.yml"))
    assert problems == []
    assert rule.enabled


def test_every_word_and_every_shipped_rule_is_documented():
    text = DOCS.read_text()
    words = set(Rule.model_fields) - {"version", "source"}
    assert {word for word in words if f"| `{word}` |" not in text} == set()
    for rule in load_rules().values():
        about = text.partition(f"### {rule.id}\n")[2].partition("###")[0]
        assert about.strip().startswith(f"*{rule.title}.*")
        assert f"| [`{rule.id}`](#{rule.id}) |" in text


def test_the_command_lists_and_checks(tmp_path):
    def run(*words):
        return CliRunner().invoke(app, ["rules", *words])

    listed = json.loads(run("list", "--format", "json").stdout)
    rules = [row["id"] for row in listed if row["kind"] == "rule"]
    assert rules == sorted(load_rules())
    detectors = {row["id"]: row["status"] for row in listed if row["kind"] == "detector"}
    assert detectors["volume"] == "on"
    assert run("check").stdout == f"{len(rules)} good, 0 wrong\n"
    written(tmp_path, GOOD)
    wrong = written(tmp_path, GOOD.replace("level: medium", "level: terrible"), "wrong.yml")
    result = run("check", str(tmp_path))
    assert result.exit_code == 1
    assert f"{wrong}:5: rule wrong: level" in result.stdout
    assert result.stdout.endswith("1 good, 2 wrong\n")
    assert {row["line"] for row in json.loads(run("check", str(wrong), "--format", "json").stdout)} == {2, 5}
