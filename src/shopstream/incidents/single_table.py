"""Rows of the incident store as items of one table, and back; `docs/dynamodb.md` has the design.

An item holds each column of its row under the column's name, so that it can be read back exactly (texts and integers;
`facts` stays the JSON text that it is, because a table's numbers do not tell 1 from 1.0), and beside it what a person
or another program wants to read: id, state, title, times as text.
"""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from shopstream.clock import from_ms
from shopstream.incidents.episode import NATURES, SEVERITIES
from shopstream.incidents.incident import Handling, State, incident_id
from shopstream.incidents.table import Item, Key, Value, text_of

__all__ = [
    "ROW_KINDS",
    "Row",
    "actor_key",
    "actor_pk",
    "chain_pk",
    "episode_item",
    "episode_key",
    "head_item",
    "head_key",
    "last_item",
    "last_key",
    "notification_item",
    "notification_key",
    "row_of",
    "scope_pk",
    "verdict_item",
]

EPISODE: Final = (
    *("scope", "ordinal", "rule", "severity", "end_ms", "last_event_ms", "closes_ms", "closed", "facts"),
    *("handling", "handled_ms", "comment", "root", "role", "chain", "actor_kind", "actor", "verdict", "told"),
    "context",
)
HEAD: Final = (
    *("scope", "ordinal", "severity", "nature", "first_event_ms", "last_event_ms", "detected_ms", "closed"),
    *("campaign", "episodes", "facts"),
)
NOTIFICATION: Final = (
    *("reference", "target", "incident_id", "kind", "severity", "state", "attempts", "due_ms", "created_ms"),
    *("finished_ms", "error"),
)
_COLUMNS: Final = {
    "episode": ("incidents", EPISODE),
    "head": ("heads", HEAD),
    "notification": ("notifications", NOTIFICATION),
}
ROW_KINDS: Final = ("episode", "head", "notification", "last")
"""Items that a copy is made of."""
_LARGE: Final = 100_000
"""Characters of a text from which on it is compressed: an item must not exceed 400 KB."""
_LONGEST_KEY: Final = 1_000
"""Bytes of an actor's value in a key; DynamoDB takes 2,048 in all, and who attacks chooses the user agent."""
_LONGER: Final = 3
"""Numbers of a scope are remembered for so many retentions, so that an id is not given again."""


class Row(NamedTuple):
    """A row of the SQLite file: table, columns, values."""

    table: str
    columns: tuple[str, ...]
    values: tuple[object, ...]


def scope_pk(scope: str) -> str:
    """The partition of all that one rule and key have caused."""
    return f"SCOPE#{scope}"


def chain_pk(chain: str) -> str:
    """In the index: the episodes that may be one incident."""
    return f"CHAIN#{chain}"


def actor_pk(kind: str, actor: str) -> str:
    """The partition of what is known of an actor; a digest stands for a value that is too long for a key."""
    if len(actor.encode()) > _LONGEST_KEY:
        actor = f"sha256:{hashlib.sha256(actor.encode()).hexdigest()}"
    return f"VERDICT#{kind}#{actor}"


def actor_key(kind: str, actor: str, episode_id: str) -> Key:
    """What an episode says of its actor."""
    return actor_pk(kind, actor), episode_id


def episode_key(scope: str, ordinal: int) -> Key:
    """An episode."""
    return scope_pk(scope), f"{ordinal:08d}#EPISODE"


def head_key(scope: str, ordinal: int) -> Key:
    """The sums over what people see under an episode's id."""
    return scope_pk(scope), f"{ordinal:08d}#HEAD"


def notification_key(reference: str, target: str) -> Key:
    """A notification; its reference begins with the id of what it was about."""
    about, _, rest = reference.partition(":")
    scope, _, ordinal = about.partition("-")
    return scope_pk(scope), f"{int(ordinal):08d}#NOTIFICATION#{rest}#{target}"


def last_key(scope: str) -> Key:
    """The last number that was given in a scope."""
    return scope_pk(scope), "LAST"


def episode_item(row: sqlite3.Row, now_s: int, retention: timedelta) -> Item:
    """An episode.

    Args:
        row: of `incidents`.
        now_s: epoch seconds.
        retention: a closed one lives so long from now.
    """
    facts = json.loads(row["facts"])
    words = facts["words"]
    key = episode_key(row["scope"], row["ordinal"])
    item = _columns(row, EPISODE) | {
        "pk": key[0],
        "sk": key[1],
        "item": "episode",
        "gsi1pk": chain_pk(row["chain"]),
        "gsi1sk": incident_id(row["scope"], row["ordinal"]),
        "incident": incident_id(row["scope"], row["ordinal"]),
        "title": words[2],
        "threshold": words[4],
        "keys": json.dumps(facts["keys"]),
        **_times(facts["first_event_ms"], row["last_event_ms"]),
    }
    return _expiring(item, now_s, retention if row["closed"] else None)


def head_item(row: sqlite3.Row, now_s: int, retention: timedelta) -> Item:
    """What people see.

    Args:
        row: of `heads`, with `rule`, `handling`, `comment` and `episode_facts` of the head's episode.
        now_s: epoch seconds.
        retention: a closed one lives so long from now.
    """
    key = head_key(row["scope"], row["ordinal"])
    one = incident_id(row["scope"], row["ordinal"])
    sums, facts = json.loads(row["facts"]), json.loads(row["episode_facts"])
    state = _state(row["handling"], closed=bool(row["closed"]))
    detected = from_ms(row["detected_ms"])
    unfinished = state in {State.OPEN, State.ACKNOWLEDGED}
    item = _columns(row, HEAD) | {
        "pk": key[0],
        "sk": key[1],
        "item": "head",
        "gsi1pk": "INCIDENTS#OPEN" if unfinished else f"INCIDENTS#{detected:%Y-%m}",
        "gsi1sk": f"{detected.isoformat(timespec='milliseconds')}#{one}",
        "incident": one,
        "rule": row["rule"],
        "rules": sums["rules"],
        "title": facts["words"][2],
        "keys": json.dumps(facts["keys"]),
        "nature_name": str(NATURES[row["nature"]]),
        "state": str(state),
        "handling": row["handling"],
        "comment": row["comment"],
        "detected_at": detected.isoformat(timespec="milliseconds"),
        **_times(row["first_event_ms"], row["last_event_ms"]),
    }
    return _expiring(item, now_s, retention if row["closed"] else None)


def notification_item(row: sqlite3.Row, now_s: int, retention: timedelta) -> Item:
    """A notification.

    Args:
        row: of `notifications`.
        now_s: epoch seconds.
        retention: what no longer waits lives so long from now.
    """
    key = notification_key(row["reference"], row["target"])
    pending = row["state"] == "pending"
    item = _columns(row, NOTIFICATION) | {"pk": key[0], "sk": key[1], "item": "notification"}
    item["created"] = _text(row["created_ms"])
    if pending:
        item |= {"gsi1pk": f"DUE#{row['target']}", "gsi1sk": _text(row["due_ms"]), "due": _text(row["due_ms"])}
    return _expiring(item, now_s, None if pending else retention)


def verdict_item(row: sqlite3.Row, now_s: int, retention: timedelta) -> Item:
    """What an episode says of its actor, as `verdicts.read_verdicts` would tell.

    Args:
        row: of `incidents`, with `head_handling` of the incident that people see it in.
        now_s: epoch seconds.
        retention: what a closed one says lives so long from now.
    """
    one = incident_id(row["scope"], row["ordinal"])
    key = actor_key(row["actor_kind"], row["actor"], one)
    facts = json.loads(row["facts"])
    wrong = Handling.FALSE_POSITIVE in {row["handling"], row["head_handling"]}
    item: dict[str, Value] = {
        "pk": key[0],
        "sk": key[1],
        "item": "verdict",
        "actor_kind": row["actor_kind"],
        "actor": row["actor"],
        "incident": row["root"],
        "episode": one,
        "rule": row["rule"],
        "severity": str(SEVERITIES[row["severity"]]),
        "why": facts["words"][2],
        "from_ms": facts["first_event_ms"],
        "until_ms": row["last_event_ms"] + 1,
        "from_time": _text(facts["first_event_ms"]),
        "until_time": _text(row["last_event_ms"] + 1),
        "state": str(_state(row["handling"], closed=bool(row["closed"]))),
    }
    if row["verdict"]:
        item["verdict"] = "human" if wrong else row["verdict"]
    return _expiring(item, now_s, retention if row["closed"] else None)


def last_item(scope: str, ordinal: int, end_ms: int, now_s: int, retention: timedelta) -> Item:
    """The last number that was given in a scope."""
    pk, sk = last_key(scope)
    item: dict[str, Value] = {"pk": pk, "sk": sk, "item": "last", "scope": scope, "ordinal": ordinal, "end_ms": end_ms}
    return _expiring(item, now_s, _LONGER * retention)


def row_of(item: Item) -> Row | None:
    """The row of an item; None for an item that is none."""
    kind = text_of(item, "item")
    if kind not in _COLUMNS:
        return None
    table, columns = _COLUMNS[kind]
    return Row(table, columns, tuple(_value(item, column) for column in columns))


def _columns(row: sqlite3.Row, columns: Sequence[str]) -> dict[str, Value]:
    item: dict[str, Value] = {}
    for column in columns:
        value = row[column]
        if value is None:
            continue
        if column == "severity":
            value = str(SEVERITIES[value])
        if isinstance(value, str) and len(value) > _LARGE:
            item[f"{column}_zlib"] = zlib.compress(value.encode())
        else:
            item[column] = value
    return item


def _value(item: Item, column: str) -> object:
    if column == "severity":
        return _RANKS[text_of(item, "severity")]
    packed = item.get(f"{column}_zlib")
    return zlib.decompress(packed).decode() if isinstance(packed, bytes) else item.get(column)


_RANKS: Final = {str(severity): rank for rank, severity in enumerate(SEVERITIES)}


def _expiring(item: dict[str, Value], now_s: int, after: timedelta | None) -> Item:
    if after is not None:
        item["expires_at"] = now_s + round(after.total_seconds())
    return item


def _times(first_ms: int, last_ms: int) -> dict[str, Value]:
    return {"first_event_time": _text(first_ms), "last_event_time": _text(last_ms)}


def _text(ms: int) -> str:
    return from_ms(ms).isoformat(timespec="milliseconds")


def _state(handling: str, *, closed: bool) -> State:
    """As `incident.Incident.state`."""
    if handling in {Handling.RESOLVED, Handling.FALSE_POSITIVE}:
        return State(handling)
    if closed:
        return State.CLOSED
    return State.ACKNOWLEDGED if handling == Handling.ACKNOWLEDGED else State.OPEN
