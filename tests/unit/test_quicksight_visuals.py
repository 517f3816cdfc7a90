"""What QuickSight shows stands in the marts: every column, every field of a visual, every filter."""

import importlib.util
import re
from pathlib import Path

import pytest
import sqlglot
import yaml

ROOT = Path(__file__).resolve().parents[2]
MARTS = ROOT / "src" / "shopstream" / "models" / "marts"


def _visuals():
    spec = importlib.util.spec_from_file_location("visuals", ROOT / "infra" / "shopstream_infra" / "visuals.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


visuals = _visuals()
ARNS = {name: f"arn:aws:quicksight:us-east-1:111122223333:dataset/{name}" for name in visuals.DATA_SETS}
DEFINITION = visuals.definition(ARNS)
SHEET = DEFINITION["Sheets"][0]
SHOWN = {(field["DataSetIdentifier"], field["Name"]): field["Expression"] for field in DEFINITION["CalculatedFields"]}


def mart_columns(mart):
    """Column → whether it holds text, as the mart's own page says."""
    (model,) = yaml.safe_load((MARTS / f"{mart}.yml").read_text())["models"]
    return {column["name"] for column in model["columns"]}


def columns_used(value):
    """(data set, column) of every field well and filter."""
    if isinstance(value, dict):
        if {"DataSetIdentifier", "ColumnName"} <= set(value):
            yield value["DataSetIdentifier"], value["ColumnName"]
        for inner in value.values():
            yield from columns_used(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from columns_used(inner)


@pytest.mark.parametrize("name", visuals.DATA_SETS)
def test_a_data_set_reads_columns_that_its_mart_has(name):
    data_set = visuals.DATA_SETS[name]
    (table,) = visuals.physical_table(data_set, "arn", "shopstream_dev").values()
    query = sqlglot.parse_one(table["CustomSql"]["SqlQuery"], dialect="athena")
    (source,) = query.find_all(sqlglot.exp.Table)
    assert (source.db, source.name) == ("shopstream_dev", data_set.mart)
    assert {column.name for column in query.find_all(sqlglot.exp.Column)} <= mart_columns(data_set.mart)
    assert query.named_selects == [column["Name"] for column in table["CustomSql"]["Columns"]]


def test_no_shopper_s_id_goes_to_quicksight():
    assert not any("user" in column for data_set in visuals.DATA_SETS.values() for column in data_set.columns)


def test_every_field_of_a_visual_is_a_column_or_calculated():
    used = set(columns_used(DEFINITION))
    assert len(used) > 20
    for data_set, column in used:
        assert column in visuals.DATA_SETS[data_set].columns or (data_set, column) in SHOWN, (data_set, column)


def test_calculated_fields_name_columns_of_their_data_set():
    for (data_set, _), expression in SHOWN.items():
        named = set(re.findall(r"(?<!\$)\{(\w+)\}", expression))
        assert named
        assert named <= set(visuals.DATA_SETS[data_set].columns)


def test_every_figure_that_has_a_twin_follows_the_control():
    for data_set, column in columns_used(SHEET["Visuals"]):
        assert column not in visuals.DATA_SETS[data_set].twins, f"{data_set}.{column} ignores the control"
    (control,) = SHEET["ParameterControls"]
    assert control["List"]["SelectableValues"]["Values"] == ["without bots", "with bots"]


def test_what_people_ask_has_a_visual():
    kinds = {inner["VisualId"]: kind for visual in SHEET["Visuals"] for kind, inner in visual.items()}
    assert kinds["visitors-line"] == "LineChartVisual"
    assert kinds["carts-bar"] == "BarChartVisual"
    assert kinds["hours-map"] == "HeatMapVisual"
    assert kinds["top-table"] == kinds["brands-table"] == kinds["carts-table"] == "TableVisual"


def test_every_visual_has_its_own_place_and_sorts_by_fields_it_shows():
    ids = [inner["VisualId"] for visual in SHEET["Visuals"] for inner in visual.values()]
    elements = SHEET["Layouts"][0]["Configuration"]["GridLayout"]["Elements"]
    assert [element["ElementId"] for element in elements] == ids
    assert len({(element["ColumnIndex"], element["RowIndex"]) for element in elements}) == len(ids)
    for visual in SHEET["Visuals"]:
        text = str(visual)
        fields = set(re.findall(r"'FieldId': '([^']+)', 'Column'", text))
        assert set(re.findall(r"'FieldSort': \{'FieldId': '([^']+)'", text)) <= fields


def test_filters_are_on_visuals_that_are_there():
    ids = {inner["VisualId"] for visual in SHEET["Visuals"] for inner in visual.values()}
    for group in DEFINITION["FilterGroups"]:
        (scope,) = group["ScopeConfiguration"]["SelectedSheets"]["SheetVisualScopingConfigurations"]
        assert set(scope["VisualIds"]) <= ids
        assert scope["SheetId"] == SHEET["SheetId"]
