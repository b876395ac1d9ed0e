"""Runs a command and writes its wall seconds, peak memory and exit code as JSON to a file.

    python -I -S launcher.py FIGURES COMMAND...

A process of its own, because a child's peak memory starts at what its parent held when it forked:
the benchmark itself holds ONNX Runtime and models, this script holds nothing.
"""

import json
import os
import sys
import time

figures, command = sys.argv[1], sys.argv[2:]
start = time.perf_counter()
pid = os.fork()
if pid == 0:
    os.execvp(command[0], command)
_, status, usage = os.wait4(pid, 0)
with open(figures, "w") as file:  # noqa: PTH123  (pathlib is not worth its import here)
    json.dump(
        {
            "seconds": time.perf_counter() - start,
            "peak_mb": usage.ru_maxrss * 1024 / 1e6,
            "code": os.waitstatus_to_exitcode(status),
        },
        file,
    )
