"""Selection of the warm-start run: the run whose model a night's training starts from (`trainer.warm_start`).

The split also uses it, because it reuses the numeric encoding of that run. This module must not import torch: Spark
workers import the modules that the split imports.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, WEIGHTS_FILE, Warehouse
from star_ctr.conf.contracts.compatibility import dump_number_encodings
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.contracts.run_id import is_reference, make_run_id, strip_refit_suffix
from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import hash_file
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import ACCEPTED, PREVIOUS
from star_ctr.jobs.registry.attempts import Attempt, find_attempt
from star_ctr.jobs.registry.decisions import Decisions, find_accepted_before


class Start(NamedTuple):
    """The published attempt of a warm-start run, and the layout of the rows that it was trained on."""

    attempt: Attempt
    layout: Layout

    @property
    def run_id(self) -> str:
        """Run id of the attempt."""
        return self.attempt.run_id

    def hash_numbers(self) -> str:
        """Hash the encoding of numbers, which the split reuses.

        Returns:
            The hash. It does not depend on the run id, so the split stays up to date if another run with the same
            encoding is selected.
        """
        return hash_json(dump_number_encodings(self.layout), 32)

    def hash_weights(self) -> str:
        """Hash the exported weights.

        Returns:
            The hash. The hash of an unchanged file is cached within the process.

        Raises:
            UserError: The file of the weights does not exist.
        """
        file = self.attempt.folder / WEIGHTS_FILE
        if not file.exists():
            raise UserError(f"trainer.warm_start: {file} does not exist; train {self.run_id} again")
        found = file.stat()
        return _hash_cached(file, found.st_mtime_ns, found.st_size)[:32]


@cache
def _hash_cached(file: Path, _modified: int, _size: int) -> str:
    return hash_file(file)


def find_start(settings: Settings, ds: str) -> Start | None:
    """Find the warm-start run of night `ds`.

    Args:
        settings: The settings. `trainer.warm_start` is null, `previous`, `accepted` or a run id.
        ds: The night.

    Returns:
        The run; None if training starts from scratch. This includes the case that no earlier night of this
        configuration has been trained (`previous`) or accepted (`accepted`) yet.

    Raises:
        UserError: The run does not exist, is not finished, or was trained on `ds` or later days; or its layout is
            missing.
    """
    choice = settings.trainer.warm_start
    warehouse = Warehouse(settings.paths)
    match choice:
        case None:
            return None
        case "previous":
            night = _find_newest_finished(settings, warehouse, ds)
        case "accepted":
            # Use exactly the accepted attempt: a later attempt of the same night may have been held.
            found = find_accepted_before(settings, Decisions(settings).read_all(), ds)
            return _read_start(choice, find_attempt(warehouse, *found.model), found.run_id, ds) if found else None
        case _:
            return _read_start(choice, find_attempt(warehouse, choice), choice, ds)
    if night is None:
        return None
    name = make_run_id(settings, night)
    return _read_start(choice, find_attempt(warehouse, name), name, ds)


def _find_newest_finished(settings: Settings, warehouse: Warehouse, ds: str) -> str | None:
    """Return the newest night before `ds` with a finished run of this configuration."""
    nights = {name[: len(ds)] for name in warehouse.list_finished_runs()}
    finished = set(warehouse.list_finished_runs())
    return max((night for night in nights if night < ds and make_run_id(settings, night) in finished), default=None)


def _read_start(choice: str, attempt: Attempt | None, name: str, ds: str) -> Start:
    """Check that an attempt can be the start of night `ds`, and read its layout."""
    if attempt is None:
        subject = name if choice == name else f"{choice} refers to {name}, which"
        raise UserError(
            f"trainer.warm_start: {subject} is not a finished run. Set it to the run_id of a finished run, to "
            f"`{PREVIOUS}` or to `{ACCEPTED}`, or remove it to train from scratch"
        )
    if is_reference(name):
        raise UserError(f"trainer.warm_start: {name} is a reference, from which no night continues; choose another run")
    night = attempt.record()["ds"]
    # A refit was also trained on its own night, the day on which the promoted run was evaluated.
    if night > ds or (night == ds and strip_refit_suffix(name) != name):
        raise UserError(
            f"trainer.warm_start: {name} is a run of night {night} and was trained on {ds} or later days; choose a run "
            "of an earlier night"
        )
    layout = attempt.folder / LAYOUT_FILE
    if not layout.exists():
        raise UserError(f"trainer.warm_start: {layout} does not exist; restore it, or train {name} again")
    return Start(attempt, parse_stored(Layout, layout.read_text(encoding="utf-8"), layout))
