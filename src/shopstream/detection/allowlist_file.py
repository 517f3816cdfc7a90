"""What allow-list files hold."""

import re
from datetime import UTC, date, datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyAddress
from pydantic import model_validator as check_model

from shopstream.errors import RuleError
from shopstream.yaml_files import Document, YamlError, YamlFiles

__all__ = ["ALLOW_LIST_FILES", "Actors", "Entry", "Sale"]

_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)
_MAX_ID = 64
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


def _moment(value: object) -> datetime:
    """A day means its beginning in UTC, a time without zone is UTC."""
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


def _id(name: str) -> str:
    if len(name) > _MAX_ID or not _ID.fullmatch(name):
        raise ValueError(f"expected lower-case words joined by _, at most {_MAX_ID} characters, got {name!r}")
    return name


Moment = Annotated[datetime, BeforeValidator(_moment)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Text = Annotated[str, Field(min_length=1, max_length=4_000)]
_STRICT = ConfigDict(frozen=True, extra="forbid")


class Actors(BaseModel):
    """Who; an event must fit one value of every word that is given."""

    model_config = _STRICT

    user_id: tuple[Annotated[int, Field(strict=True)], ...] = ()
    ip: tuple[IPvAnyAddress, ...] = ()
    ip_net: tuple[Network, ...] = ()
    agent: tuple[Text, ...] = ()

    @check_model(mode="after")
    def _someone(self) -> Self:
        if not self.words():
            raise ValueError("expected user_id, ip, ip_net or agent, each a list, got nothing")
        return self

    def words(self) -> tuple[str, ...]:
        """Which of the words are given."""
        return tuple(word for word in type(self).model_fields if getattr(self, word))


class Sale(BaseModel):
    """When more shoppers are expected, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    start: Annotated[Moment, Field(alias="from")]
    until: Moment
    kinds: Annotated[tuple[Literal["site", "category_id", "product_id"], ...], Field(min_length=1)]
    category_id: tuple[Annotated[int, Field(strict=True)], ...] = ()

    @check_model(mode="after")
    def _forward(self) -> Self:
        if self.until <= self.start:
            raise ValueError(
                f"expected until after from, got {self.start:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M}"
            )
        return self


class _EntryFields(BaseModel):
    model_config = _STRICT

    id: Annotated[str, AfterValidator(_id)]
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
    """One entry; `file` and `line` are where it was read."""

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
            raise YamlError((line, f"entries.{place}.id: {fields.id!r} stands here a second time; rename one"))
        found[fields.id] = Entry.model_construct(**dict(fields), file=document.file, line=line)
    return tuple(found.values())


ALLOW_LIST_FILES = YamlFiles("allow-list", _entries, "entries:", RuleError)
"""Reads allow-list files: YAML in, checked entries out."""
