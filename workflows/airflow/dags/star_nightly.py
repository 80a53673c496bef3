"""The night of star-ctr as a DAG: wait for the logs of a day, then run one task per step.

Each task runs a `star-ctr` command that you can also run by hand.

A run processes the day before its date: the run of 2026-03-05, early in the morning, is the night of 2026-03-04.
Nights run one at a time, oldest first, including missed ones. Every step can safely be run again.

To run a night manually, trigger the DAG. The form asks for the configuration (`conf`), overrides (`set`) and the `day`.

A task that fails is retried three times, at increasing intervals. Training resumes from its last checkpoint. If the
last try fails, a line is appended to `failures.log` in `AIRFLOW_HOME`, and the command in `STAR_CTR_ON_FAILURE` is
called with this line.

Airflow's Python reads this file. star-ctr is not installed there, so this file does not import it.
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
EXIT_NOT_READY = 75
"""Exit code of `star-ctr ready` while log files are missing."""


def get_setting(name: str, default: str) -> str:
    """Return the environment variable `STAR_CTR_<name>`, or the default if it is not set or empty."""
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

STEPS: list[dict[str, Any]] = json.loads((ROOT / "conf/contracts/steps.json").read_text(encoding="utf-8"))
"""The steps of a night, in order."""


def compute_day(run: Any, params: Mapping[str, Any]) -> str:
    """Return the day of the logs that a run processes.

    Args:
        run: The DAG run.
        params: The parameters of the run.

    Returns:
        The parameter `day`, as in 2026-03-04; if it is empty, the day before the date of the run.
    """
    if params["day"]:
        return str(params["day"])
    # A run that was triggered through the API may have no logical date.
    time: dt.datetime = run.logical_date or run.run_after
    return (time.astimezone(ZONE).date() - dt.timedelta(days=1)).isoformat()


def make_command(step: str, run: Any, params: Mapping[str, Any]) -> str:
    """Return the shell command that runs a step.

    Args:
        step: Name of the `star-ctr` command.
        run: The DAG run.
        params: The parameters of the run.

    Returns:
        The command, quoted for the shell.
    """
    arguments = [COMMAND, step, "--conf", params["conf"], "--ds", compute_day(run, params)]
    for override in params["set"] or []:
        arguments += ["--set", override]
    return f"cd {shlex.quote(HOME)} && exec {shlex.join(arguments)}"


def log_failure(context: Mapping[str, Any]) -> None:
    """Append a line to `failures.log` for a task whose last try has failed, and call `STAR_CTR_ON_FAILURE` with it.

    Args:
        context: The context that Airflow passes to callbacks.
    """
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


def make_run_time(day: dt.date, time: dt.time) -> dt.datetime:
    """Return a time on the date on which the night of `day` runs, which is the next day."""
    return dt.datetime.combine(day + dt.timedelta(days=1), time, ZONE)


with DAG(
    dag_id="star_nightly",
    description="star-ctr: train a model on the logs of a day, and evaluate it per domain",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(get_setting("SCHEDULE", "0 2 * * *"), timezone=str(ZONE)),
    start_date=make_run_time(FIRST_NIGHT, dt.time.min),
    end_date=make_run_time(dt.date.fromisoformat(LAST_NIGHT), dt.time.max) if LAST_NIGHT else None,
    catchup=True,
    max_active_runs=1,
    params={
        "conf": Param(
            get_setting("CONF", "conf/demo.yaml"), type="string", minLength=1, description="YAML file of the data set"
        ),
        "set": Param(
            [], type=["null", "array"], items={"type": "string", "pattern": "^[^=]+="},
            description="overrides of settings, one KEY=VALUE per line, for example trainer.seed=1",
        ),
        "day": Param(
            None, type=["null", "string"], format="date",
            description="day of the logs; the day before the date of the run by default",
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
    previous: Any = BashSensor(
        task_id="wait_for_logs",
        bash_command="{{ command('ready', dag_run, params) }}",
        retry_exit_code=EXIT_NOT_READY,
        mode="reschedule",
        poke_interval=POKE,
        timeout=WAIT,
        execution_timeout=dt.timedelta(minutes=10),
        doc_md="Calls `star-ctr ready` until the log files of the day exist. Occupies no worker between calls.",
    )
    for step in STEPS:
        name = step["name"]
        task = BashOperator(
            task_id=name,
            bash_command=f"{{{{ command('{name}', dag_run, params) }}}}",
            execution_timeout=dt.timedelta(hours=step["hours"]),
            doc_md=f"{step['about']}\n\nTo run it by hand: `star-ctr {name} --conf CONF --ds DAY`. The exact command "
            "is under Rendered Templates.",
        )
        previous >> task
        previous = task
