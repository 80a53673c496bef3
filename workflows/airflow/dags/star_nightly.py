"""The night of star-ctr as a DAG: wait for a day's logs, then one task a step, each a command that also runs by hand.

A run works on the day before its date: the run of 2026-03-05, early in the morning, is the night of 2026-03-04.
Nights run one at a time and the oldest first, also those that were missed; every step is safe to run again.

To run a night by hand, trigger the DAG: the form asks for the configuration (`conf`), overrides (`set`) and the `day`.
A task that fails is tried three times more, at growing intervals; a training goes on from its last checkpoint. If the
last try fails, a line is appended to `failures.log` in `AIRFLOW_HOME`, and `STAR_CTR_ON_FAILURE` is called with it.

This file is read by Airflow's own Python, in which star-ctr is not installed: it imports nothing of it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import DAG, CronTriggerTimetable, Param

ROOT = Path(__file__).resolve().parents[3]
NOT_YET = 75  # how `star-ctr ready` ends while logs are missing


def get_setting(name: str, default: str) -> str:
    """The environment's `STAR_CTR_<name>`; empty counts as not set."""
    return os.environ.get(f"STAR_CTR_{name}") or default


HOME = get_setting("HOME", str(ROOT))
COMMAND = get_setting("COMMAND", str(ROOT / ".venv/bin/star-ctr"))
ON_FAILURE = get_setting("ON_FAILURE", "")
ZONE = ZoneInfo(get_setting("ZONE", "UTC"))
FIRST_NIGHT = dt.date.fromisoformat(get_setting("FIRST_NIGHT", "2026-01-06"))
LAST_NIGHT = get_setting("LAST_NIGHT", "")
RETRY = dt.timedelta(seconds=float(get_setting("RETRY_SECONDS", "300")))
POKE = dt.timedelta(seconds=float(get_setting("POKE_SECONDS", "300")))
WAIT = dt.timedelta(hours=float(get_setting("WAIT_HOURS", "18")))

# The steps of a night, in order.
STEPS: list[dict[str, Any]] = json.loads((ROOT / "conf/contracts/steps.json").read_text(encoding="utf-8"))


def compute_day(run: Any, params: Mapping[str, Any]) -> str:
    """The day of the logs that a run works on: the one asked for, or the day before the run's own date."""
    if params["day"]:
        return str(params["day"])
    # A run triggered through the API may have no date of its own.
    moment: dt.datetime = run.logical_date or run.run_after
    return (moment.astimezone(ZONE).date() - dt.timedelta(days=1)).isoformat()


def make_command(step: str, run: Any, params: Mapping[str, Any]) -> str:
    """The line that runs a step, quoted for the shell."""
    arguments = [COMMAND, step, "--conf", params["conf"], "--ds", compute_day(run, params)]
    for override in params["set"] or []:
        arguments += ["--set", override]
    return f"cd {shlex.quote(HOME)} && exec {shlex.join(arguments)}"


def log_failure(context: Mapping[str, Any]) -> None:
    """Tell of a task that has failed for good."""
    task, run = context["ti"], context["dag_run"]
    line = (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ} {task.dag_id}: {task.task_id} of the night "
        f"{compute_day(run, context['params'])} failed on try {task.try_number} (run {run.run_id}): "
        f"{context.get('exception')}"
    )
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    with (home / "failures.log").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    if ON_FAILURE:
        subprocess.run([*shlex.split(ON_FAILURE), line], check=True, timeout=60)


def parse_time(day: dt.date, time: dt.time) -> dt.datetime:
    """A moment of the date on which the night of `day` runs."""
    return dt.datetime.combine(day + dt.timedelta(days=1), time, ZONE)


with DAG(
    dag_id="star_nightly",
    description="star-ctr: from a day's logs to a model and its metrics by domain",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(get_setting("SCHEDULE", "0 2 * * *"), timezone=str(ZONE)),
    start_date=parse_time(FIRST_NIGHT, dt.time.min),
    end_date=parse_time(dt.date.fromisoformat(LAST_NIGHT), dt.time.max) if LAST_NIGHT else None,
    catchup=True,
    max_active_runs=1,
    params={
        "conf": Param(
            get_setting("CONF", "conf/demo.yaml"), type="string", minLength=1, description="the data set: a YAML file"
        ),
        "set": Param(
            [], type=["null", "array"], items={"type": "string", "pattern": "^[^=]+="},
            description="overrides, one KEY=VALUE a line, as in trainer.seed=1",
        ),
        "day": Param(
            None, type=["null", "string"], format="date",
            description="the day of the logs; if empty, the day before the run's date",
        ),
    },
    user_defined_macros={"command": make_command},
    default_args={
        "owner": "star-ctr",
        "retries": 3,
        "retry_delay": RETRY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": dt.timedelta(hours=1),
        "on_failure_callback": log_failure,
        "do_xcom_push": False,
    },
    tags=["star-ctr"],
) as dag:  # fmt: skip
    last: Any = BashSensor(
        task_id="wait_for_logs",
        bash_command="{{ command('ready', dag_run, params) }}",
        retry_exit_code=NOT_YET,
        mode="reschedule",
        poke_interval=POKE,
        timeout=WAIT,
        execution_timeout=dt.timedelta(minutes=10),
        doc_md="Asks `star-ctr ready` until the files of the day are there; takes no worker in between.",
    )
    for step in STEPS:
        name = step["name"]
        task = BashOperator(
            task_id=name,
            bash_command=f"{{{{ command('{name}', dag_run, params) }}}}",
            execution_timeout=dt.timedelta(hours=step["hours"]),
            doc_md=f"{step['about']}\n\nBy hand: `star-ctr {name} --conf CONF --ds DAY`; the line of this run is under Rendered.",
        )
        last >> task
        last = task
