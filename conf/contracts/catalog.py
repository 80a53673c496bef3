"""The tables and folders of a warehouse. All of their paths are built in this module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

from star_ctr.conf.files import open_folder
from star_ctr.conf.settings.paths import PathSettings

SHARED_RUN_ID = "data"
"""The `run_id` of ledger rows of the steps before training, which all models share."""
WEIGHTS_FILE = "model.safetensors"
"""File of an attempt that holds the exported weights."""
RESULT_FILE = "result.json"
"""File of an attempt that holds its training results."""
LAYOUT_FILE = "layout.json"
"""The layout of the rows that a model scores, in the folder of an attempt."""
RECIPE_FILE = "recipe.json"
"""File in the warehouse that stores the recipe."""
RECORD_FILE = "record.json"
"""File of an attempt that marks it as published: its training results, and the hash of each file."""

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
    """A Delta table of the warehouse.

    Attributes:
        name: The name of the table and of its folder.
        about: What a row of the table is.
        partitions: The columns that the table is partitioned by.
    """

    name: str
    about: str
    partitions: tuple[str, ...]

    @property
    def columns(self) -> dict[str, str]:
        """The meaning of each column that the table always or often has, in the order of the columns."""
        return _COLUMNS[self.name.removeprefix("refit_")]


# In a file of its own, so that a better text neither makes nights stale nor changes the code hash of a run.
_COLUMNS: dict[str, dict[str, str]] = json.loads(
    files("star_ctr.conf.contracts").joinpath("columns.json").read_text(encoding="utf-8")
)
TABLES = {
    table.name: table
    for table in (
        Table("impressions", "cleaned impressions, one row per impression", ("ds",)),
        Table("clicks", "cleaned clicks of a separate click log", ("ds",)),
        Table("events", "cleaned events after impressions, for further outcomes", ("ds",)),
        Table("behaviours", "user behaviours other than impressions, or from before the first day", ("ds",)),
        Table("users", "user attributes, one row per user, or per user and day", ("ds",)),
        Table("items", "item attributes, one row per item, or per item and day", ("ds",)),
        Table("quarantine", "rows that could not be used, with all columns and the reason", ("log", "ds")),
        Table("history_counts", "sums of events by group and day", ("span", "ds")),
        Table("history_events", "last events by user, sequence and day", ("span", "ds")),
        Table("features", "rows with all features, as of the impression", ("ds",)),
        Table("labels", "label of each impression, and whether it is final", ("ds",)),
        Table("profile", "shares and numbers that describe the data, one row per day, log, name and measure", ("ds",)),
        Table("vocabularies", "ids of the values that occur in a night's training days", ("ds",)),
        Table(
            "split", "encoded rows of a night: train (the days before) and test (ds)", ("ds", "part", "domain_number")
        ),
        Table("refit_vocabularies", "ids of the values that occur in a refit's training days", ("ds",)),
        Table(
            "refit_split",
            "encoded training rows of the refit of night ds, including ds",
            ("ds", "part", "domain_number"),
        ),
        Table("scores", "predicted CTR of each test row", ("run_id",)),
        Table("metrics", "AUC, GAUC, PCOC and log loss, one row per day, model and domain", ("run_id",)),
        Table(
            "final_metrics",
            "metrics of nights with open labels, computed again once all labels are final",
            ("run_id",),
        ),
        Table(
            "outcome_metrics",
            "metrics of further outcomes, computed once their windows have closed",
            ("run_id", "outcome"),
        ),
        Table("differences", "metrics of a run minus those of another run on the same rows", ("run_id",)),
        Table("importance", "what AUC, GAUC and log loss of a run lose without a feature", ("run_id",)),
        Table("runs", "one record per training attempt: settings, table versions, code, seed", ("run_id",)),
        Table("days", "what was computed for each day of the logs, and from what", ("part",)),
        Table("steps", "when each step ran, its inputs and its result; one row at its start and one at its end", ()),
        Table("lease", "which process writes to the warehouse; one row when it starts and one when it ends", ()),
        Table("decisions", "which run was promoted, held or rolled back, by whom and why; append-only", ()),
        Table("ledger", "rows in and out of each step, with the reason for rows left out", ("run_id",)),
    )
}


class SplitTables(NamedTuple):
    """The names of a table of encoded rows and of the table with the values behind their ids."""

    split: str
    vocabularies: str


NIGHT_TABLES = SplitTables("split", "vocabularies")
"""The tables that a night's training and evaluation read."""
REFIT_TABLES = SplitTables("refit_split", "refit_vocabularies")
"""The tables that a refit reads."""

LOG_TABLES = ("impressions", "clicks", "events", "behaviours", "users", "items")
"""The tables that `ingest` writes from the logs."""


class Warehouse:
    """The paths of one data set's tables and models."""

    def __init__(self, paths: PathSettings) -> None:
        self.root = paths.warehouse.rstrip("/")
        self.models = (paths.models or f"{self.root}/models").rstrip("/")
        self.studies = f"{self.root}/tune"

    def table(self, name: str) -> str:
        """Return the folder of a table; raises `KeyError` if `TABLES` does not declare it."""
        return f"{self.root}/{TABLES[name].name}"

    def list_finished_runs(self) -> list[str]:
        """Return the ids of the runs with a published attempt, sorted, so that the newest night is last."""
        records = open_folder(self.models).glob(f"*/attempt-*/{RECORD_FILE}")
        return sorted({record.parent.parent.name for record in records})

    def run_folder(self, run_id: str) -> str:
        """Return the folder of a run, which contains a folder per attempt."""
        return f"{self.models}/{run_id}"
