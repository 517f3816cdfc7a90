"""Allow-lists: which actors and planned sales are harmless, why, and until when.

A detection that an entry covers is suppressed: it is kept with the entry and its reason, and counted, but opens no
incident. An entry covers a detection

- **by its key**, if the key has all fields of the entry (`user_id`, `ip`, `ip_net`, `agent`). A sale is compared
  with the kind of key, the time and the rule's labels;
- **by its events** otherwise: a rule keyed by `user_id` sees a crawler under ever new ids. Windows of rules keyed by an
  actor then have a hidden measure, ALLOWED: the number of an entry that covers *every* event of the window, or 0.

An entry holds for event time before its `expires`, so a replay of old events gives the same result.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from ipaddress import AddressValueError, IPv4Network, IPv6Network, NetmaskValueError, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyAddress
from pydantic import model_validator as check_model

from shopstream.clock import from_ms, to_ms
from shopstream.detection.detection import Detection, Suppression
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import RuleError
from shopstream.yaml_files import Document, Identifier, Text, YamlError, YamlFiles

_GROUP_BITS, _GROUPS_BITS = 16, 48

_REMEDIES = {
    "entries": "write a list of entries, each with id, reason, expires, and actors or sale",
    "id": "take lower-case words joined by _, unique in the file",
    "reason": "say why it is harmless, and how that was checked",
    "expires": "write the day on which somebody looks at it again, e.g. 2027-03-31",
    "rules": "write a list of rule ids; * stands for any text",
    "actors": "write e.g. {user_id: [1001]}, {ip_net: [192.0.2.0/24], agent: ['Bot/1.0']}",
    "sale": "write e.g. {from: 2026-11-27T00:00Z, until: 2026-11-30T00:00Z, kinds: [site, category_id]}",
}


def _utc_time(value: object) -> datetime:
    """A day means its start in UTC; a time without a zone is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"expected a day or a time such as 2026-11-27T00:00Z, got {value!r}") from None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise ValueError(f"expected a day or a time such as 2026-11-27T00:00Z, got {value!r}")


def _network(value: object) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError(f"expected a network such as 192.0.2.0/24, got {value!r}")  # noqa: TRY004  Pydantic's way
    network = ip_network(value)
    if isinstance(network, IPv6Network) and (
        network.prefixlen > _GROUPS_BITS or not network.prefixlen or network.prefixlen % _GROUP_BITS
    ):
        raise ValueError(f"expected an IPv6 network of /16, /32 or /48, got {value!r}")
    return network


Moment = Annotated[datetime, BeforeValidator(_utc_time)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
_STRICT = ConfigDict(frozen=True, extra="forbid")


class Actors(BaseModel):
    """Actors: an event matches if it has one of the values of each given field."""

    model_config = _STRICT

    user_id: tuple[Annotated[int, Field(strict=True)], ...] = ()
    ip: tuple[IPvAnyAddress, ...] = ()
    ip_net: tuple[Network, ...] = ()
    agent: tuple[Text, ...] = ()

    @check_model(mode="after")
    def _not_empty(self) -> Self:
        if not self.given():
            raise ValueError("expected user_id, ip, ip_net or agent, each a list, got nothing")
        return self

    def given(self) -> tuple[str, ...]:
        """The given fields."""
        return tuple(word for word in type(self).model_fields if getattr(self, word))


class Sale(BaseModel):
    """A planned sale: when, and in which parts of the shop."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    start: Annotated[Moment, Field(alias="from")]
    until: Moment
    kinds: Annotated[tuple[Literal["site", "category_id", "product_id"], ...], Field(min_length=1)]
    category_id: tuple[Annotated[int, Field(strict=True)], ...] = ()

    @check_model(mode="after")
    def _check_order(self) -> Self:
        if self.until <= self.start:
            raise ValueError(
                f"expected until after from, got {self.start:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M}"
            )
        return self


class _EntryFields(BaseModel):
    model_config = _STRICT

    id: Identifier
    reason: Text
    expires: Moment
    rules: tuple[Text, ...] = ()
    actors: Actors | None = None
    sale: Sale | None = None

    @check_model(mode="after")
    def _one_of(self) -> Self:
        if (self.actors is None) == (self.sale is None):
            raise ValueError("expected actors or sale, one of the two")
        return self


class Entry(_EntryFields):
    """One entry, with the file and line where it stands."""

    file: str
    line: int

    @property
    def name(self) -> str:
        """Unique in a folder: `crawlers.acme`, the file's stem and the id."""
        return f"{Path(self.file).stem}.{self.id}"


class _File(BaseModel):
    model_config = _STRICT

    entries: tuple[_EntryFields, ...]


def _entries(document: Document) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    for place, fields in enumerate(document.validate(_File, _REMEDIES).entries):
        line = document.line(("entries", place))
        if fields.id in found:
            raise YamlError((line, f"entries.{place}.id: {fields.id!r} is used twice; rename one"))
        found[fields.id] = Entry.model_construct(**dict(fields), file=document.file, line=line)
    return tuple(found.values())


ALLOW_LIST_FILES = YamlFiles("allow-list", _entries, "entries:", RuleError)
"""Reads and checks allow-list files."""

ALLOWED = "_allowed"
"""The hidden measure; no rule can use this name."""

_ACTOR_KEYS = frozenset({"user_id", "user_session", "ip", "ip_net", "agent_hash"})
_FLOOD = "owasp.oat-015"
"""The only OWASP label of rules and detectors that look at volume alone, which a sale may trigger. Those that look at
the composition, which differs between attacks and sales, have more labels."""

_Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AllowList:
    """Entries of all files, in order; may be empty."""

    entries: Sequence[Entry] = ()

    def mark(self, detections: Iterable[Detection]) -> list[Detection]:
        """The detections without hidden measures; those that an entry covers get a suppression."""
        return [self._marked(detection) for detection in detections]

    def _marked(self, detection: Detection) -> Detection:
        number = detection.measures.get(ALLOWED)
        if number is not None:
            shown = {name: value for name, value in detection.measures.items() if name != ALLOWED}
            detection = replace(detection, measures=shown)
        entry = self.entries[number - 1] if isinstance(number, int) and number > 0 else self._covering(detection)
        if entry is None:
            return detection
        return replace(detection, suppression=Suppression(entry.name, entry.reason))

    def _covering(self, detection: Detection) -> Entry | None:
        return next((entry for entry in self.entries if _covers(entry, detection)), None)

    def watch(self, declaration: WindowDeclaration, rule_id: str) -> WindowDeclaration:
        """The window of a rule, with the hidden measure if keys alone do not decide.

        This changes the form of its state: after a change of such entries, the rule's open windows restart empty.
        """
        if not _ACTOR_KEYS.intersection(declaration.key):
            return declaration
        cases = [
            f"WHEN {_condition(entry)} THEN {number}"
            for number, entry in enumerate(self.entries, 1)
            if entry.actors and _applies(entry, rule_id) and not _decided(entry.actors, declaration.key)
        ]
        if not cases:
            return declaration
        hidden = f"min(CASE {' '.join(cases)} ELSE 0 END)"
        return replace(declaration, measures={**declaration.measures, ALLOWED: hidden})


def load_allow_list(folder: Path | None) -> AllowList:
    """Reads the allow-list files (*.yml) of a folder; None gives an empty allow-list.

    Raises:
        ConfigurationError: no such folder.
        RuleError: invalid files, one line per problem: `file:line: allow-list: problem; remedy`.
    """
    if folder is None:
        return AllowList()
    return AllowList([entry for entries in ALLOW_LIST_FILES.load(folder).values() for entry in entries])


def _applies(entry: Entry, rule_id: str) -> bool:
    return not entry.rules or any(fnmatchcase(rule_id, pattern) for pattern in entry.rules)


def _covers(entry: Entry, detection: Detection) -> bool:
    if not _applies(entry, detection.rule_id) or detection.last_event_ms >= to_ms(entry.expires):
        return False
    if entry.sale:
        return _is_sale(entry.sale, detection, named=bool(entry.rules))
    actors = entry.actors
    return actors is not None and _decided(actors, detection.key) and _is_one(actors, detection.key)


def _is_sale(sale: Sale, detection: Detection, *, named: bool) -> bool:
    """Whether the sale explains a detection: its kind of key and time, and a volume label (or a rule of the entry)."""
    if not (to_ms(sale.start) <= detection.start_ms and detection.end_ms <= to_ms(sale.until)):
        return False
    labels = [tag for tag in detection.tags if tag.startswith("owasp.")]
    if detection.key_kind not in sale.kinds or not (named or labels == [_FLOOD]):
        return False
    category = detection.key.get("category_id")
    return not sale.category_id or category is None or int(category) in sale.category_id


def _decided(actors: Actors, key: Iterable[str]) -> bool:
    """Whether the key alone decides if it is one of the actors."""
    there = set(key)
    needs = {
        "user_id": {"user_id"},
        "ip": {"ip"},
        "ip_net": {"ip", "ip_net"},
        "agent": {"agent_hash", "user_agent"},
    }
    return all(there & needs[word] for word in actors.given())


def _is_one(actors: Actors, key: Mapping[str, str]) -> bool:
    tests = {
        "user_id": lambda: int(key["user_id"]) in actors.user_id,
        "ip": lambda: _address(key["ip"]) in {_address(str(ip)) for ip in actors.ip},
        "ip_net": lambda: _inside(key.get("ip") or key["ip_net"], actors.ip_net),
        "agent": lambda: (
            key["user_agent"] in actors.agent
            if "user_agent" in key
            else key["agent_hash"] in {agent_hash(agent) for agent in actors.agent}
        ),
    }
    return all(tests[word]() for word in actors.given())


def agent_hash(agent: str) -> str:
    """The derived column of that name."""
    return hashlib.md5(agent.encode(), usedforsecurity=False).hexdigest()[:16]


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def _inside(text: str, networks: Iterable[_Network]) -> bool:
    """Whether an address or network lies in one of the networks; False for other text."""
    try:
        found = ip_network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        return False
    return any(
        found.version == network.version
        and int(network.network_address) <= int(found.network_address)
        and int(found.broadcast_address) <= int(network.broadcast_address)
        for network in networks
    )


def _condition(entry: Entry) -> str:
    """The entry as a SQL condition on one event. Every value is a parsed number, a parsed address or a quoted text."""
    actors = entry.actors
    if actors is None:
        raise TypeError(f"expected an entry about actors, got {entry.name}")
    parts = [f"event_time < CAST('{from_ms(to_ms(entry.expires)).isoformat(sep=' ')}' AS TIMESTAMPTZ)"]
    if actors.user_id:
        parts.append(f"user_id IN ({', '.join(map(str, actors.user_id))})")
    if actors.ip:
        parts.append(f"lower(ip) IN ({', '.join(_quote(str(ip)) for ip in actors.ip)})")
    if actors.agent:
        parts.append(f"user_agent IN ({', '.join(map(_quote, actors.agent))})")
    if actors.ip_net:
        parts.append(f"({' OR '.join(map(_in_network, actors.ip_net))})")
    return " AND ".join(f"coalesce({part}, FALSE)" for part in parts)


def _in_network(network: _Network) -> str:
    if isinstance(network, IPv6Network):  # `_network` accepts whole groups only
        groups = network.network_address.exploded.split(":")[: network.prefixlen // 16]
        return f"starts_with(lower(ip), {_quote(':'.join(f'{int(group, 16):x}' for group in groups) + ':')})"
    octets = "".join(
        f" + TRY_CAST(split_part(ip, '.', {place}) AS BIGINT) * {256 ** (4 - place)}" for place in range(1, 5)
    )
    return f"0{octets} BETWEEN {int(network.network_address)} AND {int(network.broadcast_address)}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
