"""The steps of a night, in order. The nightly run, staleness checks, error messages and the DAG share this list.

The list is stored in `steps.json`, because the DAG file cannot import this package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

from star_ctr.conf.settings.root import Settings


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of a night.

    Attributes:
        name: The name of the command and of the module in `jobs`.
        about: What the step does, in a sentence or two.
        per_run: Whether the step runs once per run (model and seed). Other steps run once for all runs.
        day_from: The table whose newest day is processed if no day is given; None for the logs.
        writes: The tables that the step writes.
        hours: The time limit of the step in the DAG.
        after: The step whose results it needs; by default the step before it in the list.
        is_optional: Whether the step is part of a night only if settings enable it.
        may_fail: Whether the night and later nights continue if the step fails; set if no other step needs it.
    """

    name: str
    about: str
    per_run: bool
    day_from: str | None
    writes: tuple[str, ...]
    hours: int
    after: str | None = None
    is_optional: bool = False
    may_fail: bool = False


def _read_steps() -> tuple[Step, ...]:
    text = files("star_ctr.conf.contracts").joinpath("steps.json").read_text(encoding="utf-8")
    return tuple(Step(**{**step, "writes": tuple(step["writes"])}) for step in json.loads(text))


STEPS = {step.name: step for step in _read_steps()}
"""The steps by name, in the order in which a night runs them."""
STEP_NAMES = tuple(STEPS)
"""Names of all steps, in order."""
RUN_STEPS = tuple(step.name for step in STEPS.values() if step.per_run)
"""Names of the steps that run once per run."""


def list_steps(settings: Settings) -> tuple[str, ...]:
    """Return the names of the steps that a night has with these settings, in order."""
    enabled = {"refit": settings.gate.publish == "refit", "reference": settings.reference is not None}
    return tuple(step.name for step in STEPS.values() if not step.is_optional or enabled[step.name])


def find_required_step(name: str) -> str | None:
    """Return the step of the same night whose results a step needs; None for the first step."""
    if (after := STEPS[name].after) is not None:
        return after
    number = STEP_NAMES.index(name)
    return STEP_NAMES[number - 1] if number else None


def find_writer(table: str) -> str:
    """Return the name of the first step that writes a table; `nightly` if no step does."""
    return next((step.name for step in STEPS.values() if table in step.writes), "nightly")
