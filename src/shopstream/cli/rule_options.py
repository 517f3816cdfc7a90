"""What commands that try rules have in common: which rule, which time, which events."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import err
from shopstream.config import Settings
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.detection.rule import Rule
    from shopstream.ruletools.history import History

__all__ = ["EventsOption", "FromOption", "RuleArgument", "ToOption", "chosen_rule", "past_events", "progress_bar"]

RuleArgument = Annotated[str, typer.Argument(metavar="RULE", help="Id of a rule in force, or a rule file.")]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Only events from this day or moment on (UTC).")
]
ToOption = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="Only events to the end of this day, or before this moment.")
]
EventsOption = Annotated[
    str | None,
    typer.Option("--events", metavar="FILE", help="CSV, JSON lines or Parquet instead of the lake; path or URL."),
]

_DATE = len("2019-11-05")


def chosen_rule(settings: Settings, name: str) -> "Rule":
    """A rule by its id, or from a file that need not be in force.

    Raises:
        ConfigurationError: there is no such rule.
        RuleError: the file is wrong.
    """
    from shopstream.detection.rule import RULE_FILES, load_rules  # noqa: PLC0415

    if name.endswith(".yml"):
        return RULE_FILES.load(Path(name)).popitem()[1]
    rules = load_rules(settings.detection.rules_path)
    if name not in rules:
        raise ConfigurationError(
            f"expected the id of a rule or a file that ends in .yml, got {name!r}; there are {', '.join(rules)}"
        )
    return rules[name]


@contextmanager
def past_events(settings: Settings, events: str | None, since: str | None, until: str | None) -> Iterator["History"]:
    """Events of the lake, or of a file, that a rule can be tried on.

    Raises:
        ConfigurationError: a time cannot be read, or there is no lake.
    """
    from shopstream.clock import SystemClock  # noqa: PLC0415  likewise
    from shopstream.ruletools.history import loaded, open_history  # noqa: PLC0415  likewise

    limits = {"since": _moment("--from", since), "until": _moment("--to", until, to_the_end=True)}
    spill, memory = settings.home / "spill", int(settings.engine.memory_limit)
    if events is not None:
        with progress_bar(f"reading {events}") as progress, loaded(events, spill, SystemClock(), progress) as lakehouse:
            progress(1, 1)
            with open_history(lakehouse, spill, memory, **limits) as history:
                yield history
        return
    if not adapters_of(settings).has_lake():
        raise ConfigurationError(
            f"expected a lake in {settings.home}, found none; load events with `shopstream lake ingest FILE`, name "
            "another --home, or give a file with --events"
        )
    with (
        closing(adapters_of(settings).open_lakehouse()) as kept,
        open_history(kept, spill, memory, **limits) as history,
    ):
        yield history


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while the block lasts; told what is done, and all."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415  start-up time

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=err, transient=True
    ) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, everything: int) -> None:
            bar.update(task, completed=done, total=everything)

        yield show


def _moment(option: str, text: str | None, *, to_the_end: bool = False) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"expected {option} as a day like 2019-11-05 or a moment like 2019-11-05T13:00, got {text!r}"
        ) from None
    if to_the_end and len(text) <= _DATE:
        moment += timedelta(days=1)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
