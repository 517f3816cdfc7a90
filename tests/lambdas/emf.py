"""Metrics in lines of a log: the schema that AWS publishes for them, and what CloudWatch would sum up."""

from collections import Counter

_UNITS = (
    "Seconds|Microseconds|Milliseconds|Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits"
)
_UNITS += (
    "|Terabits|Percent|Count|(Bytes|Kilobytes|Megabytes|Gigabytes|Terabytes|Bits|Kilobits|Megabits|Gigabits|Terabits"
)
_UNITS += "|Count)/Second|None"
_METRIC = {
    "type": "object",
    "required": ["Name"],
    "properties": {
        "Name": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^(.*)$"},
        "Unit": {"type": "string", "pattern": f"^({_UNITS})$"},
        "StorageResolution": {"type": "integer"},
    },
}
_DIMENSION_SET = {
    "type": "array",
    "minItems": 0,
    "maxItems": 30,
    "items": {"type": "string", "minLength": 1, "maxLength": 250, "pattern": "^(.*)$"},
}
_DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "properties": {
        "Namespace": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": "^(.*)$"},
        "Dimensions": {"type": "array", "minItems": 1, "items": _DIMENSION_SET},
        "Metrics": {"type": "array", "maxItems": 100, "items": _METRIC},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {"type": "array", "items": _DIRECTIVE},
            },
        }
    },
}
"""The embedded metric format, as Amazon CloudWatch's guide specifies it."""


def sums(documents):
    """(metric, value of each dimension) → sum."""
    total = Counter()
    for document in documents:
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                place = tuple(document[name] for name in names)
                for metric in directive["Metrics"]:
                    values = document[metric["Name"]]
                    total[metric["Name"], *place] += sum(values if isinstance(values, list) else [values])
    return total
