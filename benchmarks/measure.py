"""Measures a process tree: wall-clock time, CPU time and peak memory.

The command runs in a session of its own; every process of that session is sampled from `/proc`, also those that lost
their parent (Flink and Spark start a JVM), and all of them are gone when `run` returns.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.1
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Results of one run.

    Args:
        wall_s: from start to the end of the command.
        cpu_s: user and system time of all its processes.
        peak_mb: largest sum of resident memory of all its processes at one time, in MiB.
        output: what it printed to stdout.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


class FailedError(RuntimeError):
    """The command failed or took too long."""


def run(
    command: Sequence[str],
    *,
    log: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Measurement:
    """Run a command to its end and measure it.

    Args:
        command: program and arguments.
        log: file that takes stderr.
        timeout_s: the command is stopped after this time.
        env: all its variables; None: this process's.
        cwd: working directory.

    Raises:
        FailedError: another exit code than 0, or too slow.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    out = log.with_suffix(".out")
    with log.open("wb") as err_file, out.open("wb") as out_file:
        started = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        tree = Tree(child.pid)
        try:
            status, usage = 0, None
            while usage is None:
                tree.sample()
                done, status, found = os.wait4(child.pid, os.WNOHANG)
                if done:
                    usage = found
                elif time.perf_counter() - started > timeout_s:
                    raise FailedError(f"{command[0]} took more than {timeout_s:.0f} s; see {log}")
                else:
                    time.sleep(SAMPLE_S)
            wall_s = time.perf_counter() - started
            child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            tree.stop()
    if child.returncode:
        tail = log.read_text(errors="replace")[-2000:]
        raise FailedError(f"{' '.join(map(str, command))} ended with code {child.returncode}; {log} ends with:\n{tail}")
    return Measurement(
        wall_s,
        max(usage.ru_utime + usage.ru_stime, tree.cpu_s),
        tree.peak_mb,
        out.read_text(),
    )


def _high_water_mb(pid: int) -> float:
    """Peak resident memory of one process since its program started: short peaks between samples count too.

    `ru_maxrss` is of no use here: a child inherits its parent's figure.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it ended meanwhile
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


class Tree:
    """All processes of one session."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._cpu: dict[int, float] = {}
        self.peak_mb = 0.0

    @property
    def cpu_s(self) -> float:
        """User and system time of all processes seen, as of the last sample of each."""
        return sum(self._cpu.values())

    def sample(self) -> float:
        """Take a sample; returns resident memory in MiB."""
        resident = 0
        for pid, fields in self._members():
            self._cpu[pid] = (int(fields[11]) + int(fields[12])) / _TICK
            resident += int(fields[21]) * _PAGE
            self.peak_mb = max(self.peak_mb, _high_water_mb(pid))
        self.peak_mb = max(self.peak_mb, resident / 2**20)
        return resident / 2**20

    def stop(self) -> None:
        """End every process of the session."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid, _ in self._members():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue  # it ended by itself
            deadline = time.monotonic() + 5
            while any(True for _ in self._members()) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _members(self) -> list[tuple[int, list[str]]]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            if int(fields[3]) == self._session and fields[0] != "Z":
                found.append((int(entry.name), fields))
        return found
