"""Every table and folder of a warehouse: its path is made here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import PathSettings

DATA_RUN = "data"
"""The `run_id` of ledger rows of the steps before training, which all models share."""
WEIGHTS = "model.safetensors"
"""File of an attempt that holds the exported weights."""
RESULT = "result.json"
"""File of an attempt that holds the results of its training."""
RECORD = "record.json"
"""File of an attempt that marks it as published: the results of its training, and the hash of each file."""

TABLE_PROPERTIES = {
    # Runs refer to table versions, so the log is kept for longer than Delta's default of 30 days. Deletion vectors are
    # off, because the trainer reads the data files directly.
    "logRetentionDuration": "interval 400 days",
    "deletedFileRetentionDuration": "interval 30 days",
    "enableDeletionVectors": "false",
}
"""The Delta properties of every new table, whether Spark or deltalake creates it."""


@dataclass(frozen=True)
class Table:
    """A Delta table: what it holds, and the columns that its folders are partitioned by."""

    name: str
    about: str
    partitions: tuple[str, ...]


TABLES = {
    table.name: table
    for table in (
        Table("impressions", "what was shown, one row an impression, clean", ("ds",)),
        Table("clicks", "clicks of a separate click log", ("ds",)),
        Table("behaviours", "what users did besides, or before the first day", ("ds",)),
        Table("users", "user attributes, one row a user, or a user and day", ("ds",)),
        Table("items", "item attributes, one row an item, or an item and day", ("ds",)),
        Table("quarantine", "rows that could not be used, whole, each with its reason", ("log", "ds")),
        Table("features", "labelled rows with all features as known at the impression", ("ds",)),
        Table("profile", "match rates of joins and unparsable numeric values, one row per day and measure", ("ds",)),
        Table("vocabularies", "ids of the values that a night's training days hold", ("ds",)),
        Table("split", "encoded rows of a night: train (the days before) and test (ds)", ("ds", "part", "domain")),
        Table("refit_vocabularies", "ids of the values that a refit's days hold", ("ds",)),
        Table(
            "refit_split",
            "encoded rows that a refit of night ds is trained on, ds among them",
            ("ds", "part", "domain"),
        ),
        Table("scores", "predicted click rates of the test rows", ("run_id",)),
        Table("metrics", "AUC, GAUC, PCOC and log loss, one row a day, model and domain", ("run_id",)),
        Table("differences", "AUC and GAUC of a run less those of another on the same rows", ("run_id",)),
        Table("runs", "one record a training run: settings, versions read, code, seed", ("run_id",)),
        Table("steps", "what was run when, on what it stood, and how it ended; one row a start and an end", ()),
        Table("lease", "which process writes to the warehouse; one row when it starts and one when it ends", ()),
        Table("decisions", "which run was promoted, held, rolled back: by whom, and why; it only grows", ()),
        Table("ledger", "rows into and out of each step, with the reason of what was left out", ("run_id",)),
    )
}


class SplitTables(NamedTuple):
    """The tables that encoded rows land in, with the values behind their ids."""

    split: str
    vocabularies: str


OF_NIGHT = SplitTables("split", "vocabularies")
OF_REFIT = SplitTables("refit_split", "refit_vocabularies")

LOG_TABLES = ("impressions", "clicks", "behaviours", "users", "items")


class Warehouse:
    """The places of one data set's tables and models below `paths.warehouse`."""

    def __init__(self, paths: PathSettings) -> None:
        self.root = paths.warehouse.rstrip("/")
        self.models = (paths.models or f"{self.root}/models").rstrip("/")

    def table(self, name: str) -> str:
        """The folder of a table; `KeyError` for a name that no part declares."""
        return f"{self.root}/{TABLES[name].name}"

    def list_finished_runs(self) -> list[str]:
        """The runs that were trained to their end, the newest night last."""
        return sorted({record.parent.parent.name for record in Path(self.models).glob(f"*/attempt-*/{RECORD}")})

    def run_folder(self, run_id: str) -> str:
        """The folder of a run, with a folder for each attempt; `UserError` for one in an object store."""
        if "://" in self.models:
            raise UserError(
                f"{self.models}: a training writes files; set paths.models to a folder that all machines see"
            )
        return f"{self.models}/{run_id}"
