"""The warm-start run, in warehouses that contain only run folders and decisions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.run_id import make_refit_run_id, make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome
from star_ctr.jobs.registry.warm_starts import find_start
from tests.published import publish

NIGHTS = ("2026-03-02", "2026-03-03", "2026-03-04")


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    return tmp_path


def load_settings(warehouse: Path, start: str | None, *overrides: str) -> Settings:
    start = "null" if start is None else start
    return load("demo", [f"paths.warehouse={warehouse}", f"trainer.warm_start={start}", *overrides])


def finish(settings: Settings, ds: str) -> str:
    """Publish an attempt of a night, and return the name of its run."""
    return publish(settings, make_run_id(settings, ds), ds).run_id


def test_no_warm_start_finds_no_run(warehouse: Path) -> None:
    settings = load_settings(warehouse, None)
    finish(settings, NIGHTS[0])
    assert find_start(settings, NIGHTS[1]) is None


def test_previous_finds_the_newest_finished_run_of_this_configuration(warehouse: Path) -> None:
    settings = load_settings(warehouse, "previous")
    assert find_start(settings, NIGHTS[0]) is None
    names = [finish(settings, ds) for ds in NIGHTS]
    finish(load_settings(warehouse, "previous", "trainer.seed=1"), "2026-03-01")
    assert find_start(settings, NIGHTS[0]) is None, "a run with another seed does not count"
    start = find_start(settings, NIGHTS[2])
    assert start is not None
    assert (start.run_id, start.layout.ds) == (names[1], NIGHTS[1])
    (start.attempt.folder / "record.json").unlink()
    earlier = find_start(settings, NIGHTS[2])
    assert earlier is not None
    assert earlier.run_id == names[0]


def test_accepted_follows_decisions_and_fails_if_the_run_is_gone(warehouse: Path) -> None:
    settings = load_settings(warehouse, "accepted")
    decisions = Decisions(settings)
    names = [finish(settings, ds) for ds in NIGHTS[:2]]
    assert find_start(settings, NIGHTS[2]) is None, "nothing was accepted"
    for ds, name in zip(NIGHTS, names, strict=False):
        decisions.add(Decision(ds, name, 1, "", None, Outcome.PROMOTED, "made up"), decisions.read_all())
    start = find_start(settings, NIGHTS[2])
    assert start is not None
    assert start.run_id == names[1]
    decisions.rollback("a reason")
    start = find_start(settings, NIGHTS[2])
    assert start is not None
    assert start.run_id == names[0]
    shutil.rmtree(start.attempt.folder)
    with pytest.raises(
        UserError, match=f"trainer.warm_start: accepted refers to {names[0]}, which is not a finished run"
    ):
        find_start(settings, NIGHTS[2])


def test_a_refit_was_trained_on_the_day_that_its_night_is_evaluated_on(warehouse: Path) -> None:
    name = finish(load_settings(warehouse, None), NIGHTS[1])
    models = Path(Warehouse(load_settings(warehouse, None).paths).models)
    (models / name).rename(models / make_refit_run_id(name))
    settings = load_settings(warehouse, make_refit_run_id(name))
    with pytest.raises(UserError, match=f"is a run of night {NIGHTS[1]} and was trained on {NIGHTS[1]} or later"):
        find_start(settings, NIGHTS[1])
    start = find_start(settings, NIGHTS[2])
    assert start is not None
    assert start.run_id == make_refit_run_id(name)


def test_a_named_run_must_exist_and_precede_the_night(warehouse: Path) -> None:
    name = finish(load_settings(warehouse, None), NIGHTS[1])
    with pytest.raises(UserError, match="trainer.warm_start: no-such-run is not a finished run. Set it to"):
        find_start(load_settings(warehouse, "no-such-run"), NIGHTS[1])
    start = find_start(load_settings(warehouse, name), NIGHTS[2])
    assert start is not None
    assert start.run_id == name
    with pytest.raises(
        UserError, match=f"{name} is a run of night {NIGHTS[1]} and was trained on {NIGHTS[0]} or later"
    ):
        find_start(load_settings(warehouse, name), NIGHTS[0])
