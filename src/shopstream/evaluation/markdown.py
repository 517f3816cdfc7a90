"""The summary as a page of the documentation."""

from collections.abc import Mapping, Sequence

from shopstream.evaluation.summary import Summary
from shopstream.evaluation.words import Facts, control_row, genuine_rows, how_it_was_done, row_of, verdict

__all__ = ["markdown"]


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
