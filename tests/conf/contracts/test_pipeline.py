"""The list of steps."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.contracts.pipeline import (
    RUN_STEPS,
    STEP_NAMES,
    STEPS,
    find_required_step,
    find_writer,
    list_steps,
)
from star_ctr.conf.load import load
from tests.conftest import ROOT
from tests.steps import EVERY_NIGHT


def test_the_steps_of_a_night() -> None:
    assert (
        list_steps(load("demo")) == EVERY_NIGHT == ("ingest", "features", "split", "train", "score", "evaluate", "gate")
    )
    assert (*EVERY_NIGHT, "refit", "reference") == STEP_NAMES
    assert RUN_STEPS == ("train", "score", "evaluate", "gate", "refit", "reference")
    assert list_steps(load("demo", ["gate.publish=refit", "label.open=keep"])) == (*EVERY_NIGHT, "refit")
    incremental = ["trainer.warm_start=previous", "split.vocabulary=grown"]
    assert list_steps(load("demo", [*incremental, "reference={}"])) == (*EVERY_NIGHT, "reference")
    assert [find_required_step(name) for name in STEP_NAMES] == [None, *STEP_NAMES[:-2], "evaluate"]


@pytest.mark.parametrize("name", STEP_NAMES)
def test_every_step_is_a_module_with_the_same_signature(name: str) -> None:
    assert (ROOT / f"jobs/{name}.py").is_file()
    run = importlib.import_module(f"star_ctr.jobs.{name}").run
    assert list(run.__annotations__) == ["settings", "spark", "ds", "return"]


def test_jobs_has_nothing_but_steps_at_its_top() -> None:
    assert {file.stem for file in (ROOT / "jobs").glob("*.py")} == {"__init__", *STEP_NAMES}


def test_tables_and_their_writers() -> None:
    assert {table for step in STEPS.values() for table in step.writes} <= set(TABLES)
    assert (find_writer("quarantine"), find_writer("metrics"), find_writer("steps")) == (
        "ingest",
        "evaluate",
        "nightly",
    )


def test_the_documentation_names_the_same_writers() -> None:
    text = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    for line in text.partition("| table | contents | written by |")[2].partition("\n\n")[0].splitlines()[2:]:
        tables, _, writers = line.strip("|").split(" | ")
        steps = {name for name in STEP_NAMES if f"`{name}`" in writers}
        for table in re.findall(r"`(\w+)`", tables):
            if "all" not in writers:
                assert {step.name for step in STEPS.values() if table in step.writes} == steps, table


def test_the_dag_file_reads_the_same_list() -> None:
    steps = json.loads((ROOT / "conf/contracts/steps.json").read_text())
    assert [step["name"] for step in steps] == list(STEP_NAMES)
    assert "conf/contracts/steps.json" in (ROOT / "workflows/airflow/dags/star_nightly.py").read_text()
