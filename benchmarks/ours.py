"""Runs shopstream for measurement: its commands, in fresh processes, on a separate data home."""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb
from measure import Measurement, run
from windows import RULES, WINDOWS
from workload import Check, Workload, check

from shopstream.adapters.ports import adapters_of
from shopstream.clock import SystemClock
from shopstream.config import load_settings
from shopstream.detection.detectors.shipped import shipped_detectors
from shopstream.detection.rule import load_rules
from shopstream.detection.settings import DetectionSettings
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.lakehouse.ports import LakeTable

SHOPSTREAM = str(Path(sys.executable).parent / "shopstream")
CLASSIC_RULES = Path(__file__).parent / "rules-classic"
WORK = Path(__file__).parent / ".work"


@dataclass(frozen=True, slots=True)
class Variant:
    """What is enabled besides windows, detections, incidents, deduplication and checkpoints."""

    name: str
    title: str
    flags: tuple[str, ...]


WINDOWS_ONLY = Variant("ours", "shopstream, windows to incidents", ("--no-lake", "--no-journeys"))
WITH_LAKE = Variant("ours-lake", "shopstream, and Iceberg lake", ("--no-journeys",))
EVERYTHING = Variant("ours-all", "shopstream, and lake and live journeys", ())
VARIANTS = (WINDOWS_ONLY, WITH_LAKE, EVERYTHING)


def check_rules() -> None:
    """Check that the windows of the other engines equal the shipped rules of the same names.

    Raises:
        RuntimeError: they are not the same.
    """
    compared = {window.name for window in RULES}
    rules = {rule_id: rule.window_declaration() for rule_id, rule in load_rules().items() if rule_id in compared}
    shipped = {(name, d.size_ms, d.slide_ms, ",".join(d.key) or None, str(d.condition)) for name, d in rules.items()}
    given = {(w.name, w.size_ms, w.slide_ms, w.key, f"events > {w.more_than}") for w in RULES}
    if shipped != given:
        raise RuntimeError(
            f"expected windows.RULES to be the shipped rules {sorted(map(str, shipped))}, "
            f"got {sorted(map(str, given))}; change windows.py, so that all engines compute the same"
        )


def preload(made: Workload, folder: Path, log: Path) -> tuple[Path, Measurement]:
    """Write the workload into a stream once; each run gets a copy.

    Returns:
        The data home, and what filling it took.
    """
    home = folder / "preloaded"
    shutil.rmtree(home, ignore_errors=True)
    command = [SHOPSTREAM, "--home", str(home), "simulate", str(made.parquet), "--format", "json"]
    return home, run(command, log=log, timeout_s=1_200, env=environment())


def fresh_home(preloaded: Path, home: Path) -> None:
    """A copy of the preloaded stream that no engine has read."""
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(preloaded, home)
    # What the copy left in the write cache is not the engine's business.
    os.sync()


def command(home: Path, variant: Variant) -> list[str]:
    """Process the stream to its tip."""
    return [SHOPSTREAM, "--home", str(home), "run", "--until-caught-up", "--quiet", *variant.flags]


def environment(windows: str = "rules") -> dict[str, str]:
    """Environment of the run: default settings, and exactly the windows of the other engines.

    Rules that no other engine computes and the detectors are disabled; `everything` enables all.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SHOPSTREAM_")}
    if windows == "everything":
        return clean
    off = [detector.id for detector in shipped_detectors(DetectionSettings())]
    return clean | {
        "SHOPSTREAM_DETECTION__RULES_PATH": str(_rules_folder(windows)),
        "SHOPSTREAM_DETECTION__DETECTORS_OFF": json.dumps(off),
    }


def _rules_folder(windows: str) -> Path:
    """Rules that replace the shipped ones: compared rules enabled, all others disabled, or the classic ones."""
    folder = WORK / f"rules-{windows}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for rule_id, rule in load_rules().items():
        text = re.sub(r"^status:.*\n", "", Path(rule.source).read_text(), flags=re.MULTILINE)
        status = "stable" if rule_id in {window.name for window in RULES} else "unsupported"
        (folder / f"{rule_id}.yml").write_text(f"{text}status: {status}\n")
    if windows == "classic":
        shutil.copytree(CLASSIC_RULES, folder, dirs_exist_ok=True)
    return folder


def check_run(made: Workload, windows: str, home: Path, variant: Variant) -> Check:
    """Compare incidents and, where there is a lake, every detection with the batch answer."""
    incidents = _check_incidents(made, windows, home)
    if "--no-lake" in variant.flags:
        return incidents
    detections = _check_detections(made, windows, home)
    return Check(
        detections.expected, incidents.missing + detections.missing, incidents.extra + detections.extra, "windows"
    )


def _check_incidents(made: Workload, windows: str, home: Path) -> Check:
    wanted = set()
    for window in WINDOWS[windows]:
        keys = duckdb.execute("SELECT DISTINCT key FROM read_parquet(?)", [str(made.answer / f"{window.name}.parquet")])
        wanted |= {(window.name, key if window.key else "") for (key,) in keys.fetchall()}
    with closing(EmbeddedIncidentStore(home / "incidents.db", SystemClock())) as store:
        found = {
            (part.rule, ",".join(map(str, part.keys.values())))
            for incident in store.list()
            for part in store.parts(incident.id)
        }
    return Check(len(wanted), len(wanted - found), len(found - wanted), "incidents")


def _check_detections(made: Workload, windows: str, home: Path) -> Check:
    settings = load_settings(None, {"home": home})
    lakehouse = adapters_of(settings).open_lakehouse()
    try:
        files = lakehouse.data_files(LakeTable.DETECTIONS)
    finally:
        lakehouse.close()
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    output = home / "detections"
    for window in WINDOWS[windows]:
        (output / window.name).mkdir(parents=True)
        if not files:
            continue
        con.execute(
            """
            COPY (
                SELECT start_time::TIMESTAMP, coalesce(key ->> $column, '0'), (measures ->> 'events')::BIGINT
                FROM read_parquet($files) WHERE rule_id = $rule
            ) TO $path (HEADER false)""",
            {
                "column": window.key or "none",
                "files": files,
                "rule": window.name,
                "path": str(output / window.name / "all.csv"),
            },
        )
    con.close()
    return check(made, windows, output, settings.engine.out_of_orderness // timedelta(milliseconds=1))


def preload_figures(measured: Measurement) -> Mapping[str, object]:
    """The JSON result of `simulate`."""
    figures: Mapping[str, object] = json.loads(measured.output)
    return figures
