"""A training run, pinned: all that decides its result, in one JSON file that any process can start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.settings.base import SettingsModel
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import NOT_AFFECTING_WEIGHTS, TrainerSettings


class WarmStart(SettingsModel):
    """The attempt that a training starts from: run, number, folder, and the hash of its exported weights."""

    run_id: str
    attempt: int = 1
    folder: str
    weights: str


class TrainingJob(SettingsModel):
    """What to train, on which version of the split, from which seed, and where to put it.

    `versions` are the Delta versions read on the way, `code` the hash of the trainer's source and `settings`
    the whole frozen configuration with its overrides; `start` is the run that it goes on from, if it does, and
    `vocabularies` the table with the meaning of the split's ids.
    """

    run_id: str
    attempt: int = 1
    ds: str
    split: str
    vocabularies: str = ""
    versions: dict[str, int]
    folder: str
    code: str
    layout: Layout
    model: ModelSettings
    trainer: TrainerSettings
    settings: dict[str, Any]
    start: WarmStart | None = None

    @property
    def path(self) -> Path:
        """Folder of the attempt."""
        return Path(self.folder)

    def for_attempt(self, number: int, folder: Path) -> TrainingJob:
        """Return a copy of the job with the given attempt and folder."""
        return self.model_copy(update={"attempt": number, "folder": str(folder)})

    def is_result(self, record: dict[str, Any]) -> bool:
        """Return whether a record belongs to a training of this job.

        With `trainer.parallel=batches`, the training must also have used the same number of processes throughout,
        because this number decides how many batches make a step.
        """
        if record.get("fingerprint") != self.fingerprint():
            return False
        sizes = {world["processes"] for world in record["worlds"]}
        return self.trainer.parallel == "rows" or sizes == {self.trainer.processes}

    def identity(self) -> dict[str, Any]:
        """Everything that decides the weights, by name; how many processes and threads share the work does not.

        (To the last bit they do: sums have another order then.)
        """
        return {
            "split": self.split,
            "versions": self.versions,
            "code": self.code,
            "ds": self.ds,
            "trainer": self.trainer.model_dump(mode="json", exclude=set(NOT_AFFECTING_WEIGHTS)),
            "model": self.model.model_dump(mode="json"),
            "layout": hash_json(self.layout.model_dump(mode="json"), 32),
            "start": self.start and self.start.model_dump(exclude={"folder", "attempt"}),
        }

    def fingerprint(self) -> str:
        """Hash of the identity: a checkpoint of another is never continued."""
        return hash_json(self.identity(), 32)
