"""What a try leaves behind."""

import signal
import subprocess
import sys

from shopstream.clock import SystemClock
from shopstream.ruletools.history import load_file

LOADER = """
import os, signal, sys
from pathlib import Path
from shopstream.clock import SystemClock
from shopstream.ruletools.history import load_file
with load_file(sys.argv[1], Path(sys.argv[2]), SystemClock()):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_folders_are_removed_also_those_of_killed_processes(tmp_path):
    source, folder = tmp_path / "events.csv", tmp_path / "spill"
    source.write_text("2019-11-01 00:00:01 UTC,view,1,1,,b,1.25,7,s\n")
    killed = subprocess.run([sys.executable, "-c", LOADER, str(source), str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 2
    with load_file(str(source), folder, SystemClock()):
        assert len(list(folder.iterdir())) == 2  # its own
        with load_file(str(source), folder, SystemClock()):
            assert len(list(folder.iterdir())) == 4  # one that runs is left alone
    assert list(folder.iterdir()) == []
