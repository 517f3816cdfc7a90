"""Measures the cold start of the detection function: fresh processes from its package, against local stand-ins.

    make lambda-cold-start

Each process has only the package's folder, as in Lambda. It prints medians: loading (Lambda's init: imports, settings,
rules, a table lookup), the first call, a warm call, and memory. On a busy machine, compare CPU seconds.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from lambdas.functions import Services, event_of, started  # noqa: E402  the tests' helpers
from shopstream.engine.signals import Signal, encode_signals  # noqa: E402  likewise
from shopstream.lambdas.ports import SignalRecord  # noqa: E402  likewise
from standins import process  # noqa: E402  likewise

RUNS = 9
CALLS = 10
START_MS = 1_573_430_400_000
ARN = "arn:aws:kinesis:eu-central-1:123456789012:stream/signals"


def records(first: int, count: int) -> list[SignalRecord]:
    """Signals of ten-second bins in which three users fire a rule."""
    made = []
    for number in range(first, first + count):
        start_ms = START_MS + number * 10_000
        times = (start_ms, start_ms + 10_000, start_ms, start_ms + 9_999)
        signals = [Signal("user_burst", {"user_id": user}, *times, {"events": 20}, True) for user in range(3)]
        (payload,) = encode_signals(signals, start_ms + 10_000)
        made.append(SignalRecord(payload, 1_000 + number, "shardId-000000000000", ARN, start_ms))
    return made


def main() -> None:
    """Measure and print."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # children cache bytecode, as in production
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cold-start-")))
        command = [sys.executable, str(ROOT / "infra" / "package_lambda.py"), "--architecture", platform.machine()]
        subprocess.run([*command, "--out", str(folder / "dist")], check=True)
        (package,) = (folder / "dist").glob("*.zip")
        with zipfile.ZipFile(package) as archive:
            archive.extractall(folder / "package")
        credentials = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        os.environ.update(credentials, AWS_REGION="eu-central-1", AWS_DEFAULT_REGION="eu-central-1")
        os.environ["AWS_ENDPOINT_URL"] = stack.enter_context(process.running(process.moto, folder / "moto.log"))
        table = stack.enter_context(process.running(process.dynamodb_local, folder / "dynamodb.log"))
        os.environ["AWS_ENDPOINT_URL_DYNAMODB"] = table
        runs = [measure(folder, number) for number in range(RUNS)]
    print(f"medians of {RUNS} processes; seconds by the clock, and of CPU")
    for name in ("loading", "first call", "warm call"):
        clock, cpu = (statistics.median(run[name][place] for run in runs) for place in (0, 1))
        print(f"  {name:<11} {clock:6.3f} s  {cpu:6.3f} s CPU")
    print(f"  memory      {statistics.median(run['megabytes'] for run in runs):6.0f} MB")


def measure(folder: Path, number: int) -> dict:
    """One process with services of its own."""
    services = Services(lambda word: f"{word}-{uuid4().hex[:8]}", folder / f"home-{number}")
    with started(folder / "package", "detection", **services.settings()) as function:
        loaded = function.loaded
        first = function.call(event_of(records(0, 5)))
        warm = [function.call(event_of(records(5 * place, 5))) for place in range(1, CALLS)]
        function.end()
    return {
        "loading": (loaded["loaded_s"], loaded["cpu_s"]),
        "first call": (first["took_s"], first["cpu_s"]),
        "warm call": tuple(statistics.median(call[name] for call in warm) for name in ("took_s", "cpu_s")),
        "megabytes": warm[-1]["megabytes"],
    }


if __name__ == "__main__":
    main()
