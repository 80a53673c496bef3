"""Training runs of a project, with their records, metrics and models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.errors import UserError, suggest_nearest
from star_ctr.conf.settings.root import Settings

if TYPE_CHECKING:
    from star_ctr.workflows.api.model import Model
    from star_ctr.workflows.api.project import Project

_COLUMNS = ("ds", "run_id", "attempt", "model", "seed", "rows", "seconds")


@dataclass(frozen=True, repr=False)
class Run:
    """A training attempt of a run, by default the newest one.

    Attributes:
        project: The project.
        row: The row of the table `runs`.
    """

    project: Project
    row: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return str(self.row["run_id"])

    @property
    def attempt(self) -> int:
        """The number of the attempt."""
        return int(self.row["attempt"])

    @property
    def ds(self) -> str:
        """The night."""
        return str(self.row["ds"])

    @cached_property
    def record(self) -> dict[str, Any]:
        """The training record: settings, table versions, code, rows, and more."""
        return dict(json.loads(self.row["record"]))

    @cached_property
    def settings(self) -> Settings:
        """The settings that the run was trained with."""
        return parse_stored(Settings, self.record["settings"], f"the record of {self.run_id}")

    @property
    def loss_curve(self) -> pd.DataFrame:
        """The training loss by step, with the columns `step` and `loss`."""
        return pd.DataFrame(self.record["curve"], columns=["step", "loss"])

    @property
    def metrics(self) -> pd.DataFrame:
        """The metrics of this attempt by domain, `overall` last; empty if it has not been evaluated."""
        found = self.project.metrics(run_id=self.run_id)
        return found[found["attempt"] == self.attempt].reset_index(drop=True)

    @property
    def decisions(self) -> pd.DataFrame:
        """The decisions about the run, oldest first."""
        found = self.project.decisions
        return found[found["run_id"] == self.run_id].reset_index(drop=True)

    @property
    def is_serving(self) -> bool:
        """Whether this attempt is served now."""
        serving = self.project.serving
        return serving is not None and (serving.run_id, serving.attempt) == (self.run_id, self.attempt)

    def load_model(self) -> Model:
        """Load the model of this attempt."""
        return self.project.model(self.run_id, self.attempt)

    def __repr__(self) -> str:
        serving = ", serving" if self.is_serving else ""
        return (
            f"Run {self.run_id} (attempt {self.attempt}{serving}): {self.row['rows']:,} rows in "
            f"{self.row['seconds']:.0f} s"
        )


class Runs:
    """The newest attempt of each run of a warehouse: `runs[run_id]`, or `for run in runs`, oldest night first."""

    def __init__(self, project: Project, rows: pd.DataFrame) -> None:
        newest = rows.sort_values(["ds", "run_id", "attempt"]).drop_duplicates("run_id", keep="last")
        self._project, self._rows = project, newest.set_index("run_id", drop=False)

    @property
    def newest(self) -> Run:
        """The run of the newest night; raises `UserError` if there are no runs."""
        if not len(self):
            raise UserError(f"{self._project.warehouse}: no finished run yet; run `star-ctr train` first")
        return self[self._rows.index[-1]]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per run."""
        return self._rows[list(_COLUMNS)].reset_index(drop=True)

    def __getitem__(self, run_id: str) -> Run:
        if run_id not in self._rows.index:
            hint = suggest_nearest(run_id, self._rows.index)
            raise UserError(f"{run_id}: no such run in {self._project.warehouse}{hint}")
        return Run(self._project, {str(key): value for key, value in self._rows.loc[run_id].items()})

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._rows.index

    def __iter__(self) -> Iterator[Run]:
        return (self[run_id] for run_id in self._rows.index)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return str(self.to_pandas().to_string(index=False)) if len(self) else "no runs yet"

    def _repr_html_(self) -> str:
        return str(self.to_pandas().to_html(index=False))
