"""The definition of a night's training job, before an attempt is assigned to it."""

from __future__ import annotations

from typing import NamedTuple

from star_ctr.conf.contracts.catalog import NIGHT_TABLES, SplitTables, Warehouse
from star_ctr.conf.contracts.compatibility import check_split
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.run_id import make_refit_run_id, make_run_id
from star_ctr.conf.redaction import dump_redacted
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.attempts import check_files
from star_ctr.jobs.registry.warm_starts import find_start
from star_ctr.model.training.calibration_maps import CalibrationMaps
from star_ctr.model.training.job import TrainingJob, WarmStart


class PinnedVersions(NamedTuple):
    """Inputs that all runs of a night share.

    Attributes:
        tables: The names of the split table and of the vocabularies table.
        versions: The Delta versions of `split` and `vocabularies`.
        layout: The layout of the split.
        days: The training days, if the split stores them once for all nights.
        code: The hash of the trainer's code.
    """

    tables: SplitTables
    versions: dict[str, int]
    layout: Layout
    days: list[str]
    code: str


def define_job(
    settings: Settings, ds: str, pinned: PinnedVersions, calibration_maps: CalibrationMaps | None = None
) -> TrainingJob:
    """Return the training job of a night, or of its refit, without an attempt.

    Args:
        settings: The settings of the data set.
        ds: The night.
        pinned: The inputs.
        calibration_maps: The calibration on the scores of earlier nights; none by default.

    Raises:
        DataError: A file of the run in `trainer.warm_start` is damaged.
        UserError: Training cannot start from the run in `trainer.warm_start`.
    """
    warehouse, run_id = Warehouse(settings.paths), make_run_id(settings, ds)
    return TrainingJob(
        run_id=run_id if pinned.tables == NIGHT_TABLES else make_refit_run_id(run_id),
        ds=ds,
        split=warehouse.table(pinned.tables.split),
        days=pinned.days,
        vocabularies=warehouse.table(pinned.tables.vocabularies),
        versions=pinned.versions,
        folder="",
        code=pinned.code,
        layout=pinned.layout,
        model=settings.model,
        trainer=settings.trainer,
        settings=dump_redacted(settings),
        start=find_warm_start(settings, ds, pinned.layout),
        calibration_maps=calibration_maps,
        outcome_weights=_compute_outcome_weights(settings),
    )


def _compute_outcome_weights(settings: Settings) -> dict[str, float]:
    """Return the weight of each further outcome in the loss; empty if the label is trained alone."""
    factor = settings.trainer.outcome_weight
    return {name: factor * outcome.weight for name, outcome in settings.label.also.items()} if factor else {}


def find_warm_start(settings: Settings, ds: str, layout: Layout) -> WarmStart | None:
    """Find the warm-start run of a night.

    Args:
        settings: The settings of the data set.
        ds: The night.
        layout: The layout of the night's split.

    Returns:
        The attempt of the run, with the hash of its weights; None if training starts from scratch.

    Raises:
        DataError: A file of the attempt is damaged.
        UserError: Training cannot start from the run; or the run has changed since the split was written, so that
            `layout` encodes rows differently.
    """
    start = find_start(settings, ds)
    if start is None:
        return None
    check_split(start.attempt.run_id, start.layout, layout)
    run_id, number, folder = check_files(start.attempt)
    return WarmStart(run_id=run_id, attempt=number, folder=str(folder), weights=start.hash_weights())
