"""A training run, pinned: all that decides its result, in one JSON file that any process can start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from star_ctr.conf.declared import Declared
from star_ctr.conf.hashing import digest
from star_ctr.conf.layout import Layout
from star_ctr.conf.training import ModelSettings, TrainerSettings


class TrainingJob(Declared):
    """What to train, on which version of the split, from which seed, and where to put it.

    `versions` are the Delta versions read on the way, `code` the hash of the trainer's source and `settings`
    the whole frozen configuration with its overrides.
    """

    run_id: str
    ds: str
    split: str
    versions: dict[str, int]
    folder: str
    code: str
    layout: Layout
    model: ModelSettings
    trainer: TrainerSettings
    settings: dict[str, Any]

    @property
    def place(self) -> Path:
        """The run's folder."""
        return Path(self.folder)

    def fingerprint(self) -> str:
        """Hash of everything that decides the weights: a checkpoint of another is never continued."""
        trainer = self.trainer.model_dump(mode="json", exclude={"checkpoint_minutes"})
        return digest(
            [
                self.split,
                self.versions,
                self.code,
                self.ds,
                trainer,
                self.model.model_dump(mode="json"),
                self.layout.model_dump(mode="json"),
            ],
            32,
        )
