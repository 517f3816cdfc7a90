"""Calls a function of a package as Lambda does: a process of its own with the package's folder and nothing else.

    python -I -S runtime.py FOLDER MODULE DESCRIPTOR

Reads one event a line from stdin, writes one answer a line to the descriptor; stdout is the function's log. The first
answer says how long loading took.
"""

import importlib
import json
import os
import resource
import sys
import time
from types import SimpleNamespace

TIMEOUT_MS = 60_000


def context(number):
    until = time.monotonic() + TIMEOUT_MS / 1000
    return SimpleNamespace(
        function_name="shopstream-test-detection",
        function_version="$LATEST",
        memory_limit_in_mb=1769,
        invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:shopstream-test-detection",
        aws_request_id=f"00000000-0000-4000-8000-{number:012d}",
        get_remaining_time_in_millis=lambda: int((until - time.monotonic()) * 1000),
    )


def main():
    folder, module, descriptor = sys.argv[1:]
    sys.path.insert(0, folder)
    os.chdir(folder)
    answers = os.fdopen(int(descriptor), "w")
    started, begun_s = time.perf_counter(), time.process_time()
    handler = importlib.import_module(module).handler
    heavy = sorted({"duckdb", "pyarrow", "numpy", "sqlglot", "apprise"} & sys.modules.keys())
    took = {"loaded_s": time.perf_counter() - started, "cpu_s": time.process_time() - begun_s}
    print(json.dumps({**took, "heavy": heavy}), file=answers, flush=True)
    for number, line in enumerate(sys.stdin):
        started, begun_s = time.perf_counter(), time.process_time()
        answer = handler(json.loads(line), context(number))
        took = {"took_s": time.perf_counter() - started, "cpu_s": time.process_time() - begun_s}
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"answer": answer, **took, "megabytes": megabytes}), file=answers, flush=True)


if __name__ == "__main__":
    main()
