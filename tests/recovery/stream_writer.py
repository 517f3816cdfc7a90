"""Writers that can be killed: each line "<first number>" on stdin forks a process that puts numbers until it dies.

Prints "pid <pid>", "ack <number> <count>" after each acknowledged put, and, told to "wait", "dead <pid>" for each.
Forking saves the start-up time of Python for each of many kills.
"""

import os
import random
import sys
from itertools import count
from pathlib import Path

from shopstream.clock import SystemClock
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord
from shopstream.stream.settings import StreamSettings

SETTINGS = StreamSettings(shards=3, max_bytes=512 << 20)


def payload_of(number: int) -> bytes:
    """The number and a filling that follows from it, 0 to 16 KiB."""
    return b"%d:" % number + bytes([number % 251]) * (number * 7919 % 16_384)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def write(path: Path, first: int) -> None:
    chance = random.Random(first)  # noqa: S311  sizes of puts
    with EmbeddedStream.open(path, SETTINGS, SystemClock()) as stream:
        for connection in stream._database._idle:  # the one that all puts will use
            connection.execute("PRAGMA wal_autocheckpoint = 8")  # fold the log often: many kills hit that moment
        for _ in count():
            size = chance.randint(1, 8)
            stream.put([NewRecord(payload_of(number), str(number % 13)) for number in range(first, first + size)])
            say(f"ack {first} {size}")
            first += size


def main() -> None:
    path = Path(sys.argv[1])
    children = 0
    for line in sys.stdin:
        if line.strip() == "wait":
            while children:
                pid, _ = os.wait()
                say(f"dead {pid}")
                children -= 1
            continue
        pid = os.fork()
        if pid == 0:
            write(path, int(line))
        say(f"pid {pid}")
        children += 1


if __name__ == "__main__":
    main()
