"""Stands in for `star-ctr` under Airflow: writes down how it was called and fails where a test wants it to.

Beside it lie `calls`, a JSON list a line, and `fails`, by "STEP DAY" the exit codes of the first calls, the last for good.
A call with another configuration than `demo` goes on to the real command.
"""

import json
import os
import sys
from pathlib import Path

here = Path(__file__).parent
step, conf, day = sys.argv[1], sys.argv[3], sys.argv[5]
with (here / "calls").open("a+") as calls:
    calls.seek(0)
    before = sum(json.loads(line)[:6] == sys.argv[1:7] for line in calls)
    calls.write(json.dumps(sys.argv[1:]) + "\n")
if "demo" not in conf:
    os.execv(os.environ["REAL_PYTHON"], [os.environ["REAL_PYTHON"], "-m", "star_ctr.workflows.cli", *sys.argv[1:]])
codes = json.loads((here / "fails").read_text()).get(f"{step} {day}", [0])
sys.exit(codes[min(before, len(codes) - 1)])
