"""Memory of a synthesis depends on events per hour, not on its length."""

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings
days, path = int(sys.argv[1]), Path(sys.argv[2])
summary = Synthesis(SynthesisSettings(days=days, events=400_000 * days, products=20_000)).write(path)
path.unlink()
# The high-water mark of this program alone; ru_maxrss would hold that of the parent it was forked from.
(mark,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(summary.events, int(mark.split()[1]) // 1024)
"""


def _run(days, path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(days), str(path)], check=True, capture_output=True, text=True, timeout=240
    )
    events, megabytes = done.stdout.split()
    return int(events), int(megabytes)


def test_four_days_need_no_more_memory_than_one(tmp_path):
    events, one = _run(1, tmp_path / "one.csv")
    more_events, four = _run(4, tmp_path / "four.csv")
    assert more_events > 3 * events
    assert one < 350
    assert four < one + 60
