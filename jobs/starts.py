"""The run that a night's training starts from (`trainer.warm_start`).

Used by the split, which encodes numbers like that run, and by the training. Does not import torch, because Spark
workers import what the split imports.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from star_ctr.conf.errors import UserError
from star_ctr.conf.identity import run_id
from star_ctr.conf.layout import Layout
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import Warehouse
from star_ctr.conf.training import ACCEPTED, PREVIOUS
from star_ctr.jobs.decisions import Decisions, accepted_before


class Start(NamedTuple):
    """A finished run to start from, and the layout of its training rows."""

    run_id: str
    folder: Path
    layout: Layout


def find_start(settings: Settings, ds: str) -> Start | None:
    """Find the run that the training of night `ds` starts from.

    Returns:
        The run; None if training starts from scratch, including when no earlier night of this configuration has been
        trained (`previous`) or accepted (`accepted`) yet.

    Raises:
        UserError: The run does not exist, is not finished, or was trained on `ds` or later days.
    """
    asked = settings.trainer.warm_start
    warehouse = Warehouse(settings.paths)
    match asked:
        case None:
            return None
        case "previous":
            night = _newest_finished(settings, warehouse, ds)
        case "accepted":
            night = accepted_before(settings, Decisions(settings).all(), ds)
        case _:
            return _read_start(asked, asked, warehouse, ds)
    return _read_start(asked, run_id(settings, night), warehouse, ds) if night else None


def _newest_finished(settings: Settings, warehouse: Warehouse, ds: str) -> str | None:
    """Return the newest night before `ds` with a finished run of this configuration."""
    nights = {name[: len(ds)] for name in warehouse.finished()}
    finished = set(warehouse.finished())
    return max((night for night in nights if night < ds and run_id(settings, night) in finished), default=None)


def _read_start(asked: str, name: str, warehouse: Warehouse, ds: str) -> Start:
    folder = Path(warehouse.model(name))
    record, layout = folder / "record.json", folder / "layout.json"
    if not (record.exists() and layout.exists()):
        of = "" if asked == name else f"{asked} is {name}, and "
        raise UserError(
            f"trainer.warm_start: {of}{folder} holds no finished run; set it to the run_id of one, to `{PREVIOUS}` or "
            f"`{ACCEPTED}`, or remove it to train from scratch"
        )
    if (night := json.loads(record.read_text(encoding="utf-8"))["ds"]) > ds:
        raise UserError(f"trainer.warm_start: {name} is of the night {night} and was trained on {ds} or later days")
    return Start(name, folder, Layout.model_validate_json(layout.read_text(encoding="utf-8")))
