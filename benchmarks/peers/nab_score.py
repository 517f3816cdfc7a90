"""Scores result files with NAB's own code; run by nab.py, in an environment with pandas.

    nab_score.py NAB RESULTS DETECTOR… DETECTOR=THRESHOLD…

Without a threshold NAB's optimiser finds it.

The last line of the output is JSON: detector → profile → score, from 0 (the null detector) to 100.
"""

import json
import shutil
import sys
from pathlib import Path


def main() -> None:
    """NAB's three steps: thresholds, scores, scores normalised between null and perfect."""
    nab, results = Path(sys.argv[1]), Path(sys.argv[2])
    given = dict(argument.partition("=")[::2] for argument in sys.argv[3:])
    sys.path.insert(0, str(nab))
    from nab.runner import Runner  # noqa: PLC0415  it is found there and nowhere else

    shutil.copytree(nab / "results" / "null", results / "null", dirs_exist_ok=True)
    thresholds, final = results / "thresholds.json", results / "final_results.json"
    for file in (thresholds, final):
        file.write_text("{}")
    runner = Runner(
        dataDir=str(nab / "data"),
        resultsDir=str(results),
        labelPath=str(nab / "labels" / "combined_windows.json"),
        profilesPath=str(nab / "config" / "profiles.json"),
        thresholdPath=str(thresholds),
        numCPUs=1,
    )
    runner.initialize()
    found = runner.optimize([name for name, threshold in given.items() if not threshold])
    fixed = {name: {"threshold": float(threshold)} for name, threshold in given.items() if threshold}
    found |= {name: dict.fromkeys(runner.profiles, threshold) for name, threshold in fixed.items()}
    runner.score(list(given), found)
    runner.normalize()
    print(json.dumps(json.loads(final.read_text())))


if __name__ == "__main__":
    main()
