"""Starts a stand-in as a process of its own, on a loopback port that it chose, and ends it by its own pid."""

import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / ".standins"
_START_S = 60
_END_S = 20


class StandinError(Exception):
    """A stand-in is not installed or does not start."""


def moto():
    """Command and working directory of moto's server: all services except Kinesis under concurrent writers."""
    return [sys.executable, str(HERE / "moto_server.py")], HERE


def kinesalite():
    """Of kinesalite: Kinesis, sound under concurrent writers; names no child shards."""
    return [_tool("node"), str(HERE / "kinesalite.js")], _installed("node_modules").parent


def kinesis_local():
    """Of kinesis-local: Kinesis with child shards; slow, and 1.2 GB."""
    return [_tool("node"), str(HERE / "kinesis_local.js")], _installed("node_modules/kinesis-local")


def dynamodb_local():
    """Of DynamoDB Local, in memory."""
    jars = _installed("java")
    options = ["-Xmx512m", "-XX:+UseSerialGC", f"-Djava.library.path={jars}", "-cp", f"{jars}/*"]
    return [_tool("java"), *options, str(HERE / "LoopbackDynamoDb.java")], jars


@contextmanager
def running(standin, log):
    """The address of a stand-in while it runs.

    It reads its standard input and ends with it: also where this process is killed, nothing is left over.

    Args:
        standin: one of the functions above.
        log: file for what it prints.
    """
    command, folder = standin()
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True
        ) as process,
    ):
        try:
            yield f"http://127.0.0.1:{_port(process, standin.__name__, log)}"
        finally:
            process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _port(process, name, log):
    late = threading.Timer(_START_S, process.kill)
    late.start()
    try:
        for line in process.stdout:
            if line.startswith("listening "):
                # What it says later is read away, else its pipe would fill and it would stand still.
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return int(line.split()[1])
    finally:
        late.cancel()
    raise StandinError(f"{name} did not start within {_START_S} s: {log.read_text()[-2000:]}")


def _tool(name):
    path = shutil.which(name)
    if path is None:
        raise StandinError(f"expected {name} on the PATH, found none; install it (Node 20 or newer, Java 17 or newer)")
    return path


def _installed(part):
    path = INSTALLED / part
    if not path.exists():
        raise StandinError(f"expected stand-ins in {INSTALLED}, found none; run `make test-aws`")
    return path
