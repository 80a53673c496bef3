"""The definition of a training run: everything that determines its result, in one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from star_ctr.conf.contracts.encoded_row import TEST, TRAIN, TRAIN_DAY, Layout, SplitPartition
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.files import open_folder
from star_ctr.conf.settings.base import SettingsModel
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import NOT_AFFECTING_WEIGHTS, TrainerSettings
from star_ctr.model.training.calibration_maps import CalibrationMaps


class WarmStart(SettingsModel):
    """The attempt that a training run starts from.

    Attributes:
        run_id: Id of the run.
        attempt: Number of the attempt.
        folder: Folder of the attempt.
        weights: Hash of the exported weights.
    """

    run_id: str
    attempt: int = 1
    folder: str
    weights: str


class TrainingJob(SettingsModel):
    """The definition of a training run: its data, settings, seed and output folder.

    Attributes:
        run_id: Id of the run.
        attempt: Number of the attempt.
        ds: Night of the run.
        split: Path or URL of the split table.
        days: Training days that the split stores once for all nights; empty if it has training rows of this night only.
        vocabularies: Path or URL of the table with the values of the ids in the split.
        versions: Version of each Delta table that the training run reads, by table name.
        folder: Folder of the attempt.
        code: Hash of the source code of the trainer.
        layout: Layout of the encoded rows.
        model: Settings of the model.
        trainer: Settings of the trainer; they include the seed.
        settings: The whole configuration, including overrides.
        start: Attempt to start from; None to train from scratch.
        calibration_maps: Calibration on the scores of earlier nights; None without such scores.
        outcome_weights: Weight of each further outcome of the layout in the loss, by name; empty to train the label
            only.
    """

    run_id: str
    attempt: int = 1
    ds: str
    split: str
    days: list[str] = Field(default_factory=list)
    vocabularies: str = ""
    versions: dict[str, int]
    folder: str
    code: str
    layout: Layout
    model: ModelSettings
    trainer: TrainerSettings
    settings: dict[str, Any]
    start: WarmStart | None = None
    calibration_maps: CalibrationMaps | None = Field(
        None,
        validation_alias=AliasChoices("calibration_maps", "score_maps"),  # the second one is that of earlier versions
    )
    outcome_weights: dict[str, float] = Field(default_factory=dict)

    @property
    def train_partitions(self) -> list[SplitPartition]:
        """The partitions of the split with the training rows."""
        return [SplitPartition(day, TRAIN_DAY) for day in self.days] or [SplitPartition(self.ds, TRAIN)]

    @property
    def test_partitions(self) -> list[SplitPartition]:
        """The partitions of the split with the test rows."""
        return [SplitPartition(self.ds, TEST)]

    @property
    def path(self) -> Path:
        """Folder of the attempt."""
        return open_folder(self.folder)

    def for_attempt(self, number: int, folder: Path) -> TrainingJob:
        """Return a copy of the job with the given attempt and folder."""
        return self.model_copy(update={"attempt": number, "folder": str(folder)})

    def is_result(self, record: dict[str, Any]) -> bool:
        """Return whether a record belongs to a training run of this job.

        With `trainer.parallel=batches`, the training run must also have used the same number of processes throughout,
        because this number decides how many batches make a step.
        """
        if record.get("fingerprint") != self.fingerprint():
            return False
        sizes = {world["processes"] for world in record["environments"]}
        return self.trainer.parallel == "rows" or sizes == {self.trainer.processes}

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the trained weights, by name.

        The numbers of processes and threads are not included. They change the last bits of the weights, because sums
        are then computed in another order. With `trainer.parallel=batches`, see also `is_result`.
        """
        identity = {
            "split": self.split,
            "days": self.days,
            "versions": self.versions,
            "code": self.code,
            "ds": self.ds,
            "trainer": self.trainer.model_dump(mode="json", exclude=set(NOT_AFFECTING_WEIGHTS)),
            "model": self.model.model_dump(mode="json"),
            "layout": hash_json(self.layout.model_dump(mode="json"), 32),
            "start": self.start and self.start.model_dump(exclude={"folder", "attempt"}),
            "calibration_maps": self.calibration_maps
            and hash_json(self.calibration_maps.model_dump(mode="json", include={"method", "maps"}), 32),
        }
        # Without further outcomes, the identity is the same as before they existed.
        return identity | ({"outcome_weights": self.outcome_weights} if self.outcome_weights else {})

    def fingerprint(self) -> str:
        """Return the hash of the identity; a training run only resumes from a checkpoint with the same identity."""
        return hash_json(self.identity(), 32)
