"""Reads allow-list files: YAML in, checked entries out, or problems that say file, line, entry and remedy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.resources.abc import Traversable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyAddress, ValidationError
from pydantic import model_validator as check_model

from shopstream.yaml_files import Lines, Place, YamlError, content_of, line_of, read_mapping, said, yaml_files

__all__ = ["Actors", "AllowProblem", "Entry", "Sale", "read_allow_file", "read_allow_list"]

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


class Entry(BaseModel):
    """One entry; `file` and `line` are where it was read."""

    model_config = _STRICT

    id: Annotated[str, AfterValidator(_id)]
    reason: Text
    expires: Moment
    rules: tuple[Text, ...] = ()
    actors: Actors | None = None
    sale: Sale | None = None
    file: str
    line: int

    @check_model(mode="after")
    def _one_of(self) -> Self:
        if (self.actors is None) == (self.sale is None):
            raise ValueError("expected actors or sale, one of the two")
        return self

    @property
    def name(self) -> str:
        """Unique in a folder: `crawlers.acme`, the file's stem and the id."""
        return f"{Path(self.file).stem}.{self.id}"


@dataclass(frozen=True, slots=True)
class AllowProblem:
    """What is wrong with an allow-list file, and where.

    Args:
        file, line: the place; lines count from 1.
        entry: id of the entry, or its place in the list; empty for the file.
        problem: expected what, came what; do what.
    """

    file: str
    line: int
    entry: str
    problem: str

    def __str__(self) -> str:
        """One line, in the form that editors jump to."""
        return f"{self.file}:{self.line}: {f'entry {self.entry}: ' if self.entry else ''}{self.problem}"


def read_allow_list(folder: Path) -> tuple[list[Entry], list[AllowProblem]]:
    """Entries of all *.yml of a folder, by file name and place, and what is wrong with them."""
    entries: list[Entry] = []
    problems: list[AllowProblem] = []
    for file, _stem, misnamed in yaml_files(folder, "allow-lists"):
        if misnamed:
            problems.append(AllowProblem(str(file), 1, "", misnamed))
            continue
        found, wrong = read_allow_file(file)
        entries += found
        problems += wrong
    return entries, problems


def read_allow_file(file: Path | Traversable) -> tuple[list[Entry], list[AllowProblem]]:
    """Entries of one file, and what is wrong with it.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    content = content_of(file, "allow-list")
    try:
        data, lines = read_mapping(content, one="one allow-list", begin="entries:")
    except YamlError as found:
        return [], [AllowProblem(str(file), line, "", text) for line, text in found.problems]
    problems = [
        AllowProblem(str(file), lines[(word,)], "", f"unknown word {word!r}; the file has one word, entries")
        for word in data
        if word != "entries"
    ]
    listed = data.get("entries")
    if not isinstance(listed, list):
        line = lines.get(("entries",), 1)
        return [], [*problems, AllowProblem(str(file), line, "", f"entries: expected a list; {_REMEDIES['entries']}")]
    entries: list[Entry] = []
    for place, raw in enumerate(listed):
        entry, wrong = _entry(raw, lines, str(file), ("entries", place))
        if entry and any(entry.id == other.id for other in entries):
            wrong = [AllowProblem(str(file), entry.line, entry.id, "the id stands here a second time; name one anew")]
        problems += wrong
        entries += [entry] if entry and not wrong else []
    return entries, sorted(problems, key=lambda problem: problem.line)


def _entry(raw: object, lines: Lines, file: str, path: Place) -> tuple[Entry | None, list[AllowProblem]]:
    line = line_of(lines, path)
    if not isinstance(raw, Mapping):
        return None, [AllowProblem(file, line, str(path[-1]), f"expected words with values; {_REMEDIES['entries']}")]
    name = str(raw.get("id", int(path[-1]) + 1))
    known = [word for word in Entry.model_fields if word not in {"file", "line"}]
    problems = [
        AllowProblem(file, lines[*path, word], name, f"unknown word {word!r}; known words are {', '.join(known)}")
        for word in raw
        if word not in known
    ]
    try:
        entry = Entry.model_validate({**{w: v for w, v in raw.items() if w in known}, "file": file, "line": line})
    except ValidationError as error:
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            word = str(item["loc"][0]) if item["loc"] else "entries"
            text = f"{where}: {said(item)}" if where else said(item)
            problems.append(
                AllowProblem(file, line_of(lines, (*path, *item["loc"])), name, f"{text}; {_REMEDIES[word]}")
            )
        return None, problems
    return (None if problems else entry), problems
