"""The files with the rows of a training run: selected by domain, downsampled, and with the mean weight."""

from __future__ import annotations

from dataclasses import dataclass

from star_ctr.conf.contracts.encoded_row import TRAIN_DAY, Layout, SplitPartition
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.model.data.batch_order import DataFile, count_rows_by_domain
from star_ctr.model.data.domain_selection import find_excluded, select_files
from star_ctr.model.data.negative_downsampling import downsample_files, resolve_rates
from star_ctr.model.data.new_ids import NewIds, find_new_ids
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.data.row_weights import add_mean_weight


@dataclass(frozen=True)
class TrainingFiles:
    """The files with the rows of a training run.

    Attributes:
        files: The files after downsampling.
        all_files: The same files before downsampling.
        rates: The share of the negatives that is kept, by domain number.
        excluded: The numbers of the domains that are not trained on.
        excluded_rows: The number of their rows, by domain number.
        new_ids: The first day of each id; None if no ids are masked.
    """

    files: list[DataFile]
    all_files: list[DataFile]
    rates: dict[int, float]
    excluded: list[int]
    excluded_rows: dict[int, int]
    new_ids: NewIds | None


def list_training_files(
    split: str, version: int, partitions: list[SplitPartition], layout: Layout, trainer: TrainerSettings
) -> TrainingFiles:
    """List the files with the rows of a training run.

    Args:
        split: Path or URL of the split table.
        version: The version of the table.
        partitions: The partitions with the training rows.
        layout: The layout of the encoded rows.
        trainer: The settings of the trainer.

    Returns:
        The files.

    Raises:
        DataError: There are no training rows, or a weight is missing.
        UserError: `trainer.data` or `trainer.negatives` names an unknown domain.
    """
    found = list_live_files(split, version, partitions, layout)
    all_files = select_files(found, trainer.data, layout.domain_index)
    excluded = find_excluded(trainer.data, layout.domain_index)
    wanted = resolve_rates(trainer.negatives, layout.domain_index)
    files, rates = downsample_files(all_files, wanted, trainer.seed)
    if not files:
        raise DataError(f"{split}: version {version} has no training rows for {layout.ds}")
    if layout.has_weights:
        is_sampled = files != all_files
        all_files = add_mean_weight(all_files)
        files = add_mean_weight(files) if is_sampled else list(all_files)
    share = trainer.data.new_ids_as_unknown
    has_grown = any(partition.part == TRAIN_DAY for partition in partitions)
    new_ids = find_new_ids(all_files, layout, share, has_grown) if share else None
    excluded_rows = count_rows_by_domain([file for file in found if file.domain in excluded])
    return TrainingFiles(files, all_files, rates, excluded, excluded_rows, new_ids)
