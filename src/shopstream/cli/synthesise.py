"""`shopstream synthesise` and `shopstream scenarios`: synthetic traffic with known ground truth."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from shopstream.cli.output import Format, FormatOption, emit, emit_object, emit_problems, err
from shopstream.errors import ConfigurationError
from shopstream.simulation.attacks import Flood, Scraper
from shopstream.simulation.faults_and_surges import FlashSale, Outage
from shopstream.simulation.injection import Scenario
from shopstream.simulation.scenario_file import SCENARIO_FILES, ScenarioFile, load_scenarios
from shopstream.simulation.synthesis import OutOfOrder, Synthesis, SynthesisSettings, SynthesisSummary

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def synthesise(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .csv, .csv.gz or .parquet.")],
    from_: Annotated[str, typer.Option("--from", metavar="DATE", help="First day, UTC.")] = "2019-11-05",
    days: Annotated[int, typer.Option(help="Number of whole days.")] = 1,
    events: Annotated[
        int | None,
        typer.Option(
            help="Approximate genuine events in the whole period, without surges and attacks.",
            show_default="1,770,000 a day, as in the real shop",
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option(help="Number of potential shoppers.", show_default="twice the events of a day")
    ] = None,
    products: Annotated[int, typer.Option(help="Products in the catalogue.")] = 166_794,
    seed: Annotated[int, typer.Option(help="Same seed and options, same file.")] = 1,
    flash_sale: Annotated[
        list[str] | None,
        typer.Option(metavar="START,DURATION,FACTOR[,CATEGORY]", help="FACTOR times the genuine shoppers; repeatable."),
    ] = None,
    outage: Annotated[
        list[str] | None, typer.Option(metavar="START,DURATION", help="No events are recorded; repeatable.")
    ] = None,
    flood: Annotated[
        list[str] | None,
        typer.Option(metavar="START,DURATION,FACTOR,IDS", help="FACTOR times the traffic, from many ids; repeatable."),
    ] = None,
    scraper: Annotated[
        list[str] | None,
        typer.Option(metavar="START,DURATION,BOTS,GAP", help="Bots that open a page every GAP seconds; repeatable."),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[@START]", help="Inject a random case of a scenario (or FILE.yml); repeatable."),
    ] = None,
    out_of_order: Annotated[
        str | None, typer.Option(metavar="SHARE,SECONDS", help="This share of events arrives up to SECONDS late.")
    ] = None,
    tracker: Annotated[bool, typer.Option("--tracker", help="Add event_id, ip, user_agent and url to events.")] = False,
    fmt: FormatOption = Format.TABLE,
) -> None:
    r"""Write realistic synthetic shop traffic, with attacks whose ground truth is known.

    Genuine shoppers follow statistics of a real multi-category shop: hours, weekdays, session lengths, pauses, funnel,
    best sellers, prices, missing values, duplicates, and a few robots. OUT.truth.json describes each injection (kind,
    time, figures, key, actors, number of events); the events themselves contain no labels.

    `shopstream scenarios list` lists the scenarios. START is a time on the first day (13:00) or a UTC time
    (2019-11-06T13:00); DURATION is 90s, 10m, 2h or 1d, for example.

    Examples:
      shopstream synthesise --out day.csv
      shopstream synthesise --out nov.parquet --from 2019-11-01 --days 30
      shopstream synthesise --out sale.csv --flash-sale 13:00,1h,10,apparel.shoes
      shopstream synthesise --out late.csv --events 100000 \
        --out-of-order 0.05,30 --outage 03:00,20m
      shopstream synthesise --out attack.csv --events 500000 --tracker \
        --flood 14:00,5m,10,2000 --scraper 09:00,2h,5,2
      shopstream synthesise --out mixed.csv \
        --scenario site_flood@15:00 --scenario carding_many_ids
    """
    start = _date(from_)
    scenarios: list[Scenario] = []
    for text in flash_sale or ():
        when, duration, factor, *category = _parts("--flash-sale", text, "START,DURATION,FACTOR[,CATEGORY]", 3, 4)
        times = _moment(start, when), _duration(duration)
        scenarios.append(FlashSale(*times, _number("--flash-sale", factor), category[0] if category else None))
    for text in outage or ():
        when, duration = _parts("--outage", text, "START,DURATION", 2)
        scenarios.append(Outage(_moment(start, when), _duration(duration)))
    for text in flood or ():
        when, duration, factor, ids = _parts("--flood", text, "START,DURATION,FACTOR,IDS", 4)
        times = _moment(start, when), _duration(duration)
        scenarios.append(Flood(*times, _number("--flood", factor), _whole("--flood", ids)))
    for text in scraper or ():
        when, duration, bots, gap = _parts("--scraper", text, "START,DURATION,BOTS,GAP", 4)
        times = _moment(start, when), _duration(duration)
        scenarios.append(Scraper(*times, _whole("--scraper", bots), _number("--scraper", gap)))
    settings = SynthesisSettings(
        start=start,
        days=days,
        events=events,
        users=users,
        products=products,
        seed=seed,
        out_of_order=_disorder(out_of_order),
        tracker=tracker,
        scenarios=tuple(scenarios),
    )
    if scenario:
        settings = replace(settings, scenarios=(*scenarios, *_drawn(settings, scenario)))
    _print(_write(Synthesis(settings), out), fmt)


def _drawn(settings: SynthesisSettings, names: list[str]) -> list[Scenario]:
    """One random case per named scenario; it depends on the seed, the scenario and its position in the list."""
    world = settings.world()
    cases: list[Scenario] = []
    for place, text in enumerate(names):
        name, at, when = text.partition("@")
        if at and not when:
            raise ConfigurationError(f"expected --scenario NAME@START, got {text!r}; omit the @ for a random hour")
        file = find_scenario(name)
        moment = _moment(settings.start, when) if at else None
        cases.append(file.draw(file.chance(settings.seed, place), settings.start, world, moment))
    return cases


def _write(synthesis: Synthesis, out: Path) -> SynthesisSummary:
    columns = (
        SpinnerColumn(),
        TextColumn("synthesising"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("synthesising", total=round(synthesis.expected_events))

        def progress(events: int, _: float) -> None:
            bar.update(task, completed=events, total=max(round(synthesis.expected_events), events))

        return synthesis.write(out, progress)


def _print(summary: SynthesisSummary, fmt: Format) -> None:
    row = {
        "file": str(summary.path),
        "truth": str(summary.truth_path),
        "events": summary.events,
        "genuine_events": summary.genuine_events,
        "first_event_time": summary.first_time,
        "last_event_time": summary.last_time,
    }
    injections: list[dict[str, object]] = [
        {
            "kind": truth.kind,
            "scenario": truth.scenario,
            "attack": truth.hostile,
            "from": truth.from_time,
            "until": truth.until_time,
            "key": ", ".join(f"{column} {value}" for column, value in truth.key.items()),
            "actors": len(truth.actors),
            "events": truth.events,
        }
        for truth in summary.ground_truth
    ]
    if fmt is Format.TABLE:
        emit_object(row, fmt, title="Synthetic traffic")
        if injections:
            short = [{"what": row["scenario"] or row["kind"]} | row for row in injections]
            hidden = ("kind", "scenario")
            emit([{k: v for k, v in row.items() if k not in hidden} for row in short], fmt, title="Injections")
    elif fmt is Format.JSON:
        emit_object(row | {"injections": injections}, fmt)
    else:
        emit_object(row, fmt)


def _parts(option: str, text: str, form: str, least: int, most: int | None = None) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not least <= len(parts) <= (most or least) or not all(parts):
        raise ConfigurationError(f"expected {option} {form}, got {text!r}; see `shopstream synthesise --help`")
    return parts


def _date(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ConfigurationError(f"expected --from as a date like 2019-11-05, got {text!r}") from None


def _moment(start: datetime, text: str) -> datetime:
    if re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?", text):
        hours, minutes, *seconds = (int(part) for part in text.split(":"))
        return start + timedelta(hours=hours, minutes=minutes, seconds=seconds[0] if seconds else 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"expected a start like 13:00 or 2019-11-06T13:00, got {text!r}") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _duration(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ConfigurationError(f"expected a duration like 90s, 10m, 2h or 1d, got {text!r}")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"expected a number in {option}, got {text!r}") from None


def _whole(option: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError(f"expected a whole number in {option}, got {text!r}")
    return int(text)


def _disorder(text: str | None) -> OutOfOrder | None:
    if text is None:
        return None
    share, seconds = _parts("--out-of-order", text, "SHARE,SECONDS", 2)
    return OutOfOrder(_number("--out-of-order", share), _number("--out-of-order", seconds))


FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Folder of your own scenario files; they override shipped ones.")
]


def find_scenario(name: str, folder: Path | None = None) -> ScenarioFile:
    """A scenario by name, shipped or from a folder, or from a .yml file.

    Raises:
        ConfigurationError: there is no such scenario, or its file is invalid.
    """
    if name.endswith((".yml", ".yaml")):
        return SCENARIO_FILES.load(Path(name)).popitem()[1]
    scenarios = load_scenarios(folder)
    if name not in scenarios:
        raise ConfigurationError(f"expected a scenario of {', '.join(scenarios)}, or a file FILE.yml, got {name!r}")
    return scenarios[name]


def list_scenarios(folder: FolderOption = None, fmt: FormatOption = Format.TABLE) -> None:
    """List scenarios with their detection goals.

    A goal is the share of cases that detection must find, and the median time or number of events until then; for a
    surge it is the number of incidents it may open.

    Examples:
      shopstream scenarios list
      shopstream scenarios list --folder my_scenarios --format json
    """
    rows: list[dict[str, object]] = []
    for scenario in load_scenarios(folder).values():
        row = {"id": scenario.id, "nature": str(scenario.nature), "goal": scenario.goal.describe()}
        if fmt is not Format.TABLE:
            row |= {"title": scenario.title, "target": scenario.target, "duration": scenario.duration.describe("ms")}
        rows.append(dict(row))
    emit(rows, fmt)


def show_scenario(
    name: Annotated[str, typer.Argument(help="Scenario id, or FILE.yml.")],
    folder: FolderOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show one scenario: what happens, and the ranges its cases are drawn from.

    Examples:
      shopstream scenarios show site_flood
      shopstream scenarios show human_like_crawler --format json
    """
    scenario = find_scenario(name, folder)
    row: dict[str, object] = {
        "id": scenario.id,
        "title": scenario.title,
        "description": scenario.description,
        "nature": str(scenario.nature),
        "tags": list(scenario.tags),
        "kind": scenario.kind,
        "target": scenario.target,
        "min_rate": scenario.min_rate,
        "duration": scenario.duration.describe("ms"),
        "goal": scenario.goal.describe(),
        "file": scenario.source,
        "version": scenario.version,
    }
    drawn = {word: domain.describe() for word, domain in scenario.parameters.items()}
    if fmt is Format.JSON:
        emit_object(row | {"parameters": drawn}, fmt)
    else:
        emit_object(row | drawn, fmt)


def check_scenarios(
    path: Annotated[Path, typer.Argument(help="A scenario file, or a folder of them.")],
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check scenario files. Exits 1 if a file is invalid.

    Each problem is one line: file:line: scenario: what was expected, what the file has, how to fix it.

    Examples:
      shopstream scenarios check my_scenarios/
      shopstream scenarios check my_scenarios/two_floods.yml --format json
    """
    scenarios, problems = SCENARIO_FILES.read(path)
    emit_problems(problems, fmt, f"{len(scenarios)} good, {len(problems)} wrong")
    if problems:
        raise typer.Exit(1)
