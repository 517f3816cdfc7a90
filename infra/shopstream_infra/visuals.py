"""QuickSight data sets over the marts, and the sheet of visuals, in the terms of its API.

Plain data without the CDK, so that tests can compare it with the marts and the API's model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["BOTS", "CONTROLS", "DATA_SETS", "DataSet", "definition", "physical_table"]

BOTS = "Bots"
"""The parameter that includes or excludes bots in every figure."""

CONTROLS = ("without bots", "with bots")
_TWIN = "_with_bots"
_SHOWN = "_shown"
_SHEET = "shop"
_COLUMNS = 36
_TOP = 5
_MOST = 15

Json = dict[str, Any]


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        mart: the table it reads.
        title: for people.
        columns: name → QuickSight's type; those with a twin `NAME_with_bots` follow the control.
        sql: reads them; names no database, the data set does.
    """

    mart: str
    title: str
    columns: Mapping[str, str]
    sql: str

    @property
    def twins(self) -> list[str]:
        """Columns that also exist with bots."""
        return [name for name in self.columns if f"{name}{_TWIN}" in self.columns]


def _data_set(mart: str, title: str, single: Mapping[str, str], twins: Mapping[str, str]) -> DataSet:
    columns = {**single, **twins, **{f"{name}{_TWIN}": kind for name, kind in twins.items()}}
    return DataSet(mart, title, MappingProxyType(columns), f"select {', '.join(columns)} from {mart}")


_CARTS = """select
    shop_date,
    category,
    coalesce(brand, '(no brand)') as brand,
    sum(case when is_bot then 0 else 1 end) as cart_lines,
    sum(case when is_bot then 0 else value end) as cart_value,
    count(*) as cart_lines_with_bots,
    sum(value) as cart_value_with_bots
from abandoned_carts
where state = 'abandoned'
group by shop_date, category, brand"""
"""Shopper ids stay in the lake: no personal data are copied to QuickSight."""

DATA_SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "visitors": _data_set(
            "unique_visitors",
            "Visitors per day",
            {"shop_date": "DATETIME"},
            {"visitors": "INTEGER", "buyers": "INTEGER", "sessions": "INTEGER", "revenue": "DECIMAL"},
        ),
        "carts_daily": _data_set(
            "abandoned_carts_daily",
            "Carts per day",
            {"shop_date": "DATETIME"},
            {"cart_lines": "INTEGER", "abandoned": "INTEGER", "abandoned_value": "DECIMAL", "bought_value": "DECIMAL"},
        ),
        "carts": DataSet(
            "abandoned_carts",
            "Abandoned carts, by category and brand",
            MappingProxyType(
                {
                    "shop_date": "DATETIME",
                    "category": "STRING",
                    "brand": "STRING",
                    "cart_lines": "INTEGER",
                    "cart_value": "DECIMAL",
                    "cart_lines_with_bots": "INTEGER",
                    "cart_value_with_bots": "DECIMAL",
                }
            ),
            _CARTS,
        ),
        "categories": _data_set(
            "top_categories",
            "Categories per weekday and hour",
            {
                "weekday": "INTEGER",
                "weekday_name": "STRING",
                "hour": "INTEGER",
                "category": "STRING",
                "days": "INTEGER",
            },
            {"rank": "INTEGER", "views": "INTEGER", "visitors": "INTEGER", "purchases": "INTEGER"},
        ),
        "brands": _data_set(
            "brand_marketing",
            "Brands that need marketing",
            {"brand": "STRING"},
            {
                "verdict": "STRING",
                "reason": "STRING",
                "missed_revenue": "DECIMAL",
                "visitors": "INTEGER",
                "buyers": "INTEGER",
                "conversion": "DECIMAL",
            },
        ),
    }
)
"""Name → data set."""


def physical_table(data_set: DataSet, data_source_arn: str, database: str) -> Json:
    """The table map of a data set: its SQL, in the database of the marts."""
    sql = data_set.sql.replace(f"from {data_set.mart}", f'from "{database}"."{data_set.mart}"')
    return {
        data_set.mart.replace("_", "-"): {
            "CustomSql": {
                "DataSourceArn": data_source_arn,
                "Name": data_set.title,
                "SqlQuery": sql,
                "Columns": [{"Name": name, "Type": kind} for name, kind in data_set.columns.items()],
            }
        }
    }


def definition(arns: Mapping[str, str]) -> Json:
    """The sheet, for an analysis and for a dashboard.

    Args:
        arns: name of `DATA_SETS` → ARN of the data set.
    """
    visuals = _visuals()
    return {
        "DataSetIdentifierDeclarations": [{"Identifier": name, "DataSetArn": arns[name]} for name in DATA_SETS],
        "CalculatedFields": list(_calculated()),
        "ParameterDeclarations": [
            {
                "StringParameterDeclaration": {
                    "Name": BOTS,
                    "ParameterValueType": "SINGLE_VALUED",
                    "DefaultValues": {"StaticValues": [CONTROLS[0]]},
                }
            }
        ],
        "FilterGroups": [
            _filter("top-ranks", "top-table", "categories", "rank_shown", most=_TOP),
            _filter("needs", "brands-table", "brands", "verdict_shown", values=["seen_not_bought", "bought_not_seen"]),
        ],
        "Sheets": [
            {
                "SheetId": _SHEET,
                "Name": "Shop",
                "ContentType": "INTERACTIVE",
                "ParameterControls": [
                    {
                        "List": {
                            "ParameterControlId": "bots",
                            "Title": "Count bots?",
                            "SourceParameterName": BOTS,
                            "Type": "SINGLE_SELECT",
                            "SelectableValues": {"Values": list(CONTROLS)},
                        }
                    }
                ],
                "Visuals": visuals,
                "Layouts": [{"Configuration": {"GridLayout": {"Elements": list(_grid(visuals))}}}],
            }
        ],
    }


def _calculated() -> Iterator[Json]:
    """NAME_shown: the column or its twin, by the control; and weekdays in their order."""
    for name, data_set in DATA_SETS.items():
        for column in data_set.twins:
            yield {
                "DataSetIdentifier": name,
                "Name": f"{column}{_SHOWN}",
                "Expression": f"ifelse(${{{BOTS}}} = '{CONTROLS[1]}', {{{column}{_TWIN}}}, {{{column}}})",
            }
    yield {
        "DataSetIdentifier": "categories",
        "Name": "day_of_week",
        "Expression": "concat(toString({weekday}), ' ', {weekday_name})",
    }


def _visuals() -> list[Json]:
    day = _dimension("visitors", "shop_date")
    return [
        _line("visitors-line", "Visitors and buyers per day", day, _sums("visitors", "visitors_shown", "buyers_shown")),
        _line("revenue-line", "Sales per day", day, _sums("visitors", "revenue_shown")),
        _bars(
            "carts-bar",
            "Value of abandoned carts, per day",
            _dimension("carts_daily", "shop_date"),
            _sums("carts_daily", "abandoned_value_shown"),
        ),
        _grouped(
            "carts-table",
            "Abandoned carts, by category and brand",
            [_dimension("carts", "category"), _dimension("carts", "brand")],
            _sums("carts", "cart_value_shown", "cart_lines_shown"),
        ),
        {
            "HeatMapVisual": {
                **_titled("hours-map", "Views per weekday and hour"),
                "ChartConfiguration": {
                    "FieldWells": {
                        "HeatMapAggregatedFieldWells": {
                            "Rows": [_dimension("categories", "day_of_week")],
                            "Columns": [_dimension("categories", "hour")],
                            "Values": _sums("categories", "views_shown"),
                        }
                    },
                    "SortConfiguration": {
                        "HeatMapRowSort": [_sort("categories.day_of_week", "ASC")],
                        "HeatMapColumnSort": [_sort("categories.hour", "ASC")],
                    },
                },
            }
        },
        _rows(
            "top-table",
            f"Top {_TOP} categories of each hour",
            "categories",
            ["day_of_week", "hour", "rank_shown", "category", "views_shown", "visitors_shown", "purchases_shown"],
            [_sort(f"categories.{name}", "ASC") for name in ("day_of_week", "hour", "rank_shown")],
        ),
        _bars(
            "brands-bar",
            "Brands with the most missed sales",
            _dimension("brands", "brand"),
            _sums("brands", "missed_revenue_shown"),
            largest="brands.missed_revenue_shown",
        ),
        _rows(
            "brands-table",
            "Brands that need marketing, and why",
            "brands",
            ["brand", "verdict_shown", "reason_shown", "missed_revenue_shown", "visitors_shown", "conversion_shown"],
            [_sort("brands.missed_revenue_shown", "DESC")],
        ),
    ]


def _titled(visual_id: str, title: str) -> Json:
    return {"VisualId": visual_id, "Title": {"Visibility": "VISIBLE", "FormatText": {"PlainText": title}}}


def _column(data_set: str, name: str) -> Json:
    return {"FieldId": f"{data_set}.{name}", "Column": {"DataSetIdentifier": data_set, "ColumnName": name}}


def _dimension(data_set: str, name: str) -> Json:
    kind = DATA_SETS[data_set].columns.get(name, "STRING")
    if kind == "DATETIME":
        return {"DateDimensionField": {**_column(data_set, name), "DateGranularity": "DAY"}}
    field = "CategoricalDimensionField" if kind == "STRING" else "NumericalDimensionField"
    return {field: _column(data_set, name)}


def _sums(data_set: str, *names: str) -> list[Json]:
    total = {"AggregationFunction": {"SimpleNumericalAggregation": "SUM"}}
    return [{"NumericalMeasureField": {**_column(data_set, name), **total}} for name in names]


def _sort(field: str, direction: str) -> Json:
    return {"FieldSort": {"FieldId": field, "Direction": direction}}


def _line(visual_id: str, title: str, category: Json, values: list[Json]) -> Json:
    wells = {"LineChartAggregatedFieldWells": {"Category": [category], "Values": values}}
    return {"LineChartVisual": {**_titled(visual_id, title), "ChartConfiguration": {"FieldWells": wells}}}


def _bars(visual_id: str, title: str, category: Json, values: list[Json], *, largest: str = "") -> Json:
    chart: Json = {"FieldWells": {"BarChartAggregatedFieldWells": {"Category": [category], "Values": values}}}
    if largest:
        chart["Orientation"] = "HORIZONTAL"
        chart["SortConfiguration"] = {
            "CategorySort": [_sort(largest, "DESC")],
            "CategoryItemsLimit": {"ItemsLimit": _MOST, "OtherCategories": "EXCLUDE"},
        }
    return {"BarChartVisual": {**_titled(visual_id, title), "ChartConfiguration": chart}}


def _grouped(visual_id: str, title: str, by: Sequence[Json], values: list[Json]) -> Json:
    first = values[0]["NumericalMeasureField"]["FieldId"]
    chart = {
        "FieldWells": {"TableAggregatedFieldWells": {"GroupBy": list(by), "Values": values}},
        "SortConfiguration": {"RowSort": [_sort(first, "DESC")]},
    }
    return {"TableVisual": {**_titled(visual_id, title), "ChartConfiguration": chart}}


def _rows(visual_id: str, title: str, data_set: str, names: Iterable[str], order: list[Json]) -> Json:
    chart = {
        "FieldWells": {"TableUnaggregatedFieldWells": {"Values": [_column(data_set, name) for name in names]}},
        "SortConfiguration": {"RowSort": order},
    }
    return {"TableVisual": {**_titled(visual_id, title), "ChartConfiguration": chart}}


def _filter(
    filter_id: str, visual_id: str, data_set: str, name: str, *, most: int | None = None, values: Sequence[str] = ()
) -> Json:
    """Rows of one visual: numbers up to `most`, or one of `values`."""
    column = {"FilterId": filter_id, "Column": {"DataSetIdentifier": data_set, "ColumnName": name}}
    kept: Json
    if most is not None:
        kept = {
            "NumericRangeFilter": {
                **column,
                "RangeMaximum": {"StaticValue": most},
                "IncludeMaximum": True,
                "NullOption": "NON_NULLS_ONLY",
            }
        }
    else:
        listed = {"MatchOperator": "CONTAINS", "CategoryValues": list(values), "NullOption": "NON_NULLS_ONLY"}
        kept = {"CategoryFilter": {**column, "Configuration": {"FilterListConfiguration": listed}}}
    scope = {"SheetId": _SHEET, "Scope": "SELECTED_VISUALS", "VisualIds": [visual_id]}
    return {
        "FilterGroupId": f"{filter_id}-group",
        "Filters": [kept],
        "ScopeConfiguration": {"SelectedSheets": {"SheetVisualScopingConfigurations": [scope]}},
        "Status": "ENABLED",
        "CrossDataset": "SINGLE_DATASET",
    }


def _grid(visuals: Sequence[Json]) -> Iterator[Json]:
    """Two visuals per row."""
    width, height = _COLUMNS // 2, 10
    for place, visual in enumerate(visuals):
        (inner,) = visual.values()
        yield {
            "ElementId": inner["VisualId"],
            "ElementType": "VISUAL",
            "ColumnIndex": place % 2 * width,
            "ColumnSpan": width,
            "RowIndex": place // 2 * height,
            "RowSpan": height,
        }
