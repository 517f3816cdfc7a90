"""Words for people: titles with figures, keys, measures, numbers, lengths of time."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

ACTORS: Final = {
    "user_id": "user",
    "user_session": "session",
    "ip": "address",
    "ip_net": "network",
    "agent_hash": "client",
    "user_agent": "client",
}
"""Key column that names an actor → what people call the actor. Values of these are personal data."""

TITLE_FIELD: Final = re.compile(r"\{(\w+)\}")
"""A measure, a key column or `who` in a title."""

_COUNTS: Final = (
    *("No", "One", "Two", "Three", "Four", "Five", "Six"),
    *("Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"),
)
_ROUND: Final = 1_000


def fill_title(title: str, key: Mapping[str, str], measures: Mapping[str, object], who: str) -> str:
    """The title with its fields filled in: `{who} read {events} pages a minute` → `Two users read 60 pages a minute`.

    Args:
        title: of a rule or detector.
        key: key column → value; those that name actors are never shown.
        measures: measure → value. `…_share` is shown as a percentage, `…_seconds` as a length of time.
        who: the subject, see `subject`.
    """
    texts = {name: value for name, value in key.items() if name not in ACTORS}
    texts |= {name: _figure(name, value) for name, value in measures.items()} | {"who": who}
    return TITLE_FIELD.sub(lambda field: texts.get(field[1], field[0]), title)


def subject(key_kind: str, key: Mapping[str, str], actors: int = 1) -> str:
    """The subject of a title: `Two users`, `Product 1004856`, `The site`."""
    kind = next((name for name in key_kind.split("+") if name in ACTORS), None)
    if kind is None:
        text = " and ".join(f"{name.removesuffix('_id').replace('_', ' ')} {value}" for name, value in key.items())
        return text[:1].upper() + text[1:] or "The site"
    return f"{_COUNTS[actors] if actors < len(_COUNTS) else f'{actors:,}'} {plural(kind, actors)}"


def describe_key(key: Mapping[str, str]) -> str:
    """A key for people: `user_id 7`, or `the whole site`."""
    return describe_measures(key) or "the whole site"


def describe_measures(measures: Mapping[str, object]) -> str:
    """Names and values: `events 31, products 4`."""
    return ", ".join(f"{name} {value}" for name, value in measures.items())


def plural(kind: str, count: int) -> str:
    """Actors of a kind: `user`, `users`, `addresses`."""
    name = ACTORS.get(kind, kind)
    return name if count == 1 else name + ("es" if name.endswith("s") else "s")


def number(value: object) -> str:
    """A figure for people: thousands separated, no more digits than it needs."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if abs(value) < _ROUND else f"{value:,.0f}"


def describe_length(length: timedelta) -> str:
    """A length of time for people: `10 s`, `4 min 5 s`, `3 h`, `2 d 4 h`."""
    seconds = round(length.total_seconds())
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        amount, seconds = divmod(seconds, size)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _figure(name: str, value: object) -> str:
    """Two digits are enough for a title."""
    if not isinstance(value, int | float):
        return str(value)
    if name.endswith("share"):
        return f"{value:.0%}"
    if name.endswith("_seconds"):
        return describe_length(timedelta(seconds=value))
    if "price" in name:
        return f"{value:,.2f}"
    if isinstance(value, int) or abs(value) >= 10:  # noqa: PLR2004  one digit more
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0")
