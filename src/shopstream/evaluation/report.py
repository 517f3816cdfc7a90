"""The summary as a page of the documentation.

Files of an evaluation: JSON for programs, Markdown for the documentation, a page with pictures for people.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import jinja2
import plotly

from shopstream.evaluation.charts import delay_figure, false_figure, picture_figure, recall_figure
from shopstream.evaluation.formatting import Facts, control_row, genuine_rows, how_it_was_done, row_of, verdict
from shopstream.evaluation.results import Picture
from shopstream.evaluation.runner import Done
from shopstream.evaluation.summary import Summary

__all__ = ["commit_of_code", "machine", "markdown", "write_report"]


def markdown(summary: Summary, facts: Facts) -> str:
    """A Markdown page: every row of the catalogue with its target, controls, genuine days, and how it was done."""
    head = [
        "# What detection finds",
        "",
        f"{facts.finished:%Y-%m-%d %H:%M} UTC, commit {facts.commit}, {facts.machine}, {facts.minutes:.0f} min. "
        + ("**Interrupted: not all runs are in it.** " if facts.partial else "")
        + f"Written by `shopstream evaluate`. {verdict(summary)}",
    ]
    parts = [*head, "", "## Attacks and faults", "", *_table([row_of(row) for row in summary.rows])]
    if summary.controls:
        parts += ["", "## Controls", "", *_table([control_row(row) for row in summary.controls])]
    parts += ["", "## Genuine days", "", *_table(genuine_rows(summary))]
    if summary.genuine.per_rule:
        rows: list[dict[str, object]] = [
            {"rule": rule, "false incidents": count} for rule, count in summary.genuine.per_rule.items()
        ]
        parts += ["", *_table(rows)]
    parts += ["", "## How it was done", "", *(f"- {line}" for line in how_it_was_done(facts, summary.genuine)), ""]
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    if not rows:
        return ["Nothing was run."]
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def write_report(folder: Path, done: Done, summary: Summary, facts: Facts, page: Path | None) -> None:
    """Write `evaluation.json`, `summary.md` and `report.html`, and the Markdown to `page`, too."""
    text = markdown(summary, facts)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    if page is not None:
        page.write_text(text, encoding="utf-8")
    document = {"facts": asdict(facts), **asdict(summary)}
    (folder / "evaluation.json").write_text(json.dumps(document, indent=1, default=_plain) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(_html(done, summary, facts), encoding="utf-8")


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _html(done: Done, summary: Summary, facts: Facts) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("shopstream.evaluation") / "report.html.j2").read_text("utf-8"))
    script = Path(str(files(plotly))) / "package_data" / "plotly.min.js"
    missed, false = _pictures(done)
    figures = {
        "recall": recall_figure(summary),
        "delay": delay_figure(done, summary),
        **({"false": false_figure(summary)} if summary.genuine.per_rule else {}),
        **{f"missed-{place}": picture_figure(one) for place, one in enumerate(missed)},
        **{f"told-{place}": picture_figure(one) for place, one in enumerate(false)},
    }
    return template.render(
        plotly_js=script.read_text("utf-8"),
        figures=figures,
        rows=[row_of(row) for row in summary.rows],
        controls=[control_row(row) for row in summary.controls],
        genuine=genuine_rows(summary),
        how=how_it_was_done(facts, summary.genuine),
        facts=facts,
        verdict=verdict(summary),
        missed=missed,
        told=false,
        counts=_counts(done, summary),
    )


def _pictures(done: Done) -> tuple[list[Picture], list[Picture]]:
    """Of misses, and of false incidents."""
    drawn = [picture for runs in done.attacks.values() for run in runs for picture in run.pictures]
    drawn += [picture for result in done.genuine for picture in result.pictures]
    return [one for one in drawn if one.missed], [one for one in drawn if not one.missed]


def _counts(done: Done, summary: Summary) -> Mapping[str, int]:
    """How many misses and false incidents there are, drawn or not."""
    runs = [run for of_row in done.attacks.values() for run in of_row]
    return {
        "missed": sum(bool(run.nearest) for run in runs),
        "false": summary.genuine.site + summary.genuine.actors + sum(len(run.false) for run in runs),
    }


def machine() -> str:
    """Processor, number of cores, Python: what a time depends on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def commit_of_code() -> str:
    """Short id of the commit that the code stands at, with a + when files differ; the version where there is none."""
    version = metadata.version("shopstream")
    git = shutil.which("git")
    here = Path(__file__).parent
    if git is None:
        return version
    found = _git(git, here, "rev-parse", "--short", "HEAD")
    changed = _git(git, here, "status", "--porcelain", "--", str(here.parent))
    return version if found is None else found + ("+" if changed else "")


def _git(git: str, folder: Path, *arguments: str) -> str | None:
    done = subprocess.run([git, *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None
