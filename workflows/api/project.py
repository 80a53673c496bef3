"""A project: the settings and the warehouse of one data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.domains import domain_sort_key
from star_ctr.conf.contracts.pipeline import STEPS, list_steps
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import UserError, suggest_nearest
from star_ctr.conf.load import load
from star_ctr.conf.recipe import apply_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.decisions import Decision, Decisions, find_serving
from star_ctr.workflows.api.report import Report
from star_ctr.workflows.api.runs import Run, Runs
from star_ctr.workflows.api.tables import Table, Tables, to_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from star_ctr.workflows.api.model import Model


def open_project(conf: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Project:
    """Open a project.

    Args:
        conf: The YAML file of the data set, or the name of a configuration that is part of star-ctr, such as `demo`.
        overrides: Settings to override, as `{"trainer.seed": 1}` or `["trainer.seed=1"]`.

    Returns:
        The project. Nothing is read from the warehouse yet.

    Raises:
        ConfigError: The file does not exist, or its settings are invalid.
    """
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    return Project(load(conf, overrides, with_recipe=False))


class Project:
    """The settings and the warehouse of one data set.

    Each call reads the current state of the warehouse. Reading needs no Spark, and works while a night runs.

    Args:
        settings: The settings, without the recipe.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.tables = Tables(Warehouse(settings.paths), lambda: self.spark)

    @property
    def settings(self) -> Settings:
        """The settings, with the stored recipe applied if there is one."""
        return apply_recipe(self._settings)

    @property
    def warehouse(self) -> str:
        """The folder or URL of the tables."""
        return Warehouse(self._settings.paths).root

    @cached_property
    def spark(self) -> SparkSession:
        """The Spark session, which starts on first use."""
        from star_ctr.workflows.spark_session import open_session

        with open_session(self.settings, "python") as spark:
            return spark

    def table(self, name: str, version: int | None = None) -> Table:
        """Open a table; see `Tables.open`."""
        return self.tables.open(name, version)

    def sql(self, query: str) -> pd.DataFrame:
        """Run an SQL query on the tables, without Spark; raises `UserError` if it is not valid."""
        return self.tables.query(query)

    @property
    def runs(self) -> Runs:
        """The newest attempt of each run; raises `DataError` if no run has been trained yet."""
        return Runs(self, self.table("runs").to_pandas())

    @property
    def serving(self) -> Run | None:
        """The run that is served now; None if no model is served."""
        decision = find_serving(Decisions(self._settings).read_all())
        if decision is None:
            return None
        rows = self.table("runs").filter(f"attempt = {decision.attempt}", run_id=decision.run_id).to_pandas()
        return Runs(self, rows)[decision.run_id]

    @property
    def decisions(self) -> pd.DataFrame:
        """All decisions about which model is served, oldest first."""
        found = [asdict(decision) for decision in Decisions(self._settings).read_all()]
        rows = pd.DataFrame(found, columns=[field.name for field in fields(Decision)])
        return rows.assign(outcome=rows["outcome"].astype(str)).astype({"reference_attempt": "Int64"})

    def status(self, first: str | None = None, last: str | None = None, limit: int = 14) -> pd.DataFrame:
        """Return the state of each step of each night.

        Args:
            first: The first night; the oldest one by default.
            last: The last night; the newest one by default.
            limit: Maximum number of nights; only the newest ones are returned.

        Returns:
            One row per night and step: `ds`, `step`, `state`, `reason`, `at`, `seconds` and `days` (see `status.run`).

        Raises:
            DataError: No night has run yet and there are no logs, or `first` or `last` is not a date.
        """
        from star_ctr.workflows import status

        return pd.DataFrame(status.run(self.settings, first, last, limit))

    @property
    def nights(self) -> pd.DataFrame:
        """The states of the newest 14 nights: one row per night, one column per step."""
        table = self.status().pivot(index="ds", columns="step", values="state")
        return table[list(list_steps(self.settings))].rename_axis(columns=None)

    def metrics(self, ds: str | None = None, run_id: str | None = None) -> pd.DataFrame:
        """Return the metrics of a run by domain, `overall` last.

        Args:
            ds: The night; the newest one with metrics by default.
            run_id: The run. By default, the run of the night with the settings of the project.

        Returns:
            The rows of the table `metrics`.

        Raises:
            UserError: There are no metrics of the run.
            DataError: The table has not been written yet.
        """
        table = self.table("metrics")
        if run_id is None:
            existing = table.select("ds", "run_id").to_pandas()
            named = {make_run_id(self.settings, day) for day in ([ds] if ds else existing["ds"].unique())}
            run_id = max(named & {*existing["run_id"]}, default="")  # ids begin with the night
        rows = table.filter(ds=ds, run_id=run_id).to_pandas()
        if rows.empty:
            run = run_id or f"a run with these settings for {ds or 'any night'}"
            raise UserError(f"{table.path}: no metrics of {run}; `project.runs` lists the runs")
        return rows.sort_values("domain", key=lambda names: names.map(domain_sort_key), ignore_index=True)

    def metrics_by_day(
        self,
        metric: str = "gauc",
        first: str | None = None,
        last: str | None = None,
        run_id: str | None = None,
        outcome: str | None = None,
    ) -> pd.DataFrame:
        """Return a metric by domain and day.

        Args:
            metric: `gauc`, `auc`, `pcoc`, `log_loss` or `ece`.
            first: The first day. Without `first` and `last`, the newest seven days are returned.
            last: The last day.
            run_id: A run; returns the runs with the same settings and seed. By default, those of the project.
            outcome: A further outcome of `label.also`; returns its metrics instead of those of the label.

        Returns:
            One row per domain (`overall` last), one column per day.

        Raises:
            UserError: There is no such metric or outcome, or there are no metrics of the run or of the days.
            DataError: The table has not been written yet.
        """
        from star_ctr.jobs.tools import metrics_by_day

        if metric not in metrics_by_day.METRICS:
            raise UserError(f"{metric}: no such metric; use one of {', '.join(metrics_by_day.METRICS)}")
        rows = pd.DataFrame(metrics_by_day.run(self.settings, metric, first, last, run_id, outcome))
        table = rows.pivot(index="domain", columns="ds", values="value").rename_axis(columns=None)
        return table.loc[sorted(table.index, key=domain_sort_key)]

    def report(self, ds: str | None = None) -> Report:
        """Make the report of a night.

        Args:
            ds: The night; the newest one with metrics by default.

        Returns:
            The report, which a notebook shows as a page.

        Raises:
            DataError: There is no such night.
        """
        from star_ctr.workflows.report.data import collect
        from star_ctr.workflows.report.page import render

        data = collect(self.settings, ds)
        return Report(data.ds, render(data, f'star_ctr.open(...).report("{data.ds}")'))

    def model(self, run_id: str | None = None, attempt: int | None = None) -> Model:
        """Load a model that scores rows.

        Args:
            run_id: The run; by default the one that is served now.
            attempt: The attempt of the run. By default, the serving one if it is of this run, else the newest one.

        Returns:
            The model, whose files have been checked.

        Raises:
            UserError: No model is served, or there is no such run or attempt.
            DataError: A file of the model is damaged.
        """
        from star_ctr.jobs.registry.models import find_scoring_model
        from star_ctr.workflows.api.model import Model

        serving = find_serving(Decisions(self._settings).read_all())
        if run_id is None and serving is None:
            raise UserError(f"{self.warehouse}: no model is served yet; run `star-ctr nightly`, or name a run")
        if serving is not None and attempt is None and run_id in (None, serving.run_id):
            run_id, attempt = serving.model
        assert run_id is not None
        return Model(self, find_scoring_model(self.settings, run_id, attempt))

    def run(self, step: str, ds: str | None = None, *, wait: bool = False) -> Any:
        """Run a step of a night, with the lease of the warehouse and an entry in the journal, as `star-ctr STEP` does.

        Args:
            step: The name of the step, for example `ingest`.
            ds: The night; by default the newest day of what the step reads.
            wait: Whether to wait for another process that writes to the warehouse, instead of failing.

        Returns:
            The result of the step: a DataFrame if it consists of rows, else a dictionary.

        Raises:
            UserError: There is no such step, or another process writes to the warehouse.
        """
        if step not in STEPS:
            raise UserError(f"{step}: no such step{suggest_nearest(step, STEPS)} (steps: {', '.join(STEPS)})")
        from star_ctr.workflows.nightly import choose_night, run_step

        with self._write(step, wait) as spark:
            day = choose_night(self.settings, spark, step, ds)
            return to_frame(run_step(self.settings, spark, step, day, "requested"))

    def nightly(self, ds: str | None = None, *, wait: bool = False) -> dict[str, Any]:
        """Run all steps of a night, as `star-ctr nightly` does.

        Args:
            ds: The night; the newest complete day of the logs by default.
            wait: Whether to wait for another process that writes to the warehouse, instead of failing.

        Returns:
            `metrics` (a DataFrame), `gate` (the decision), `refit` and `reference` (None without a refit or reference).
        """
        from star_ctr.workflows import nightly

        with self._write("nightly", wait) as spark:
            return {key: to_frame(value) for key, value in nightly.run(self.settings, spark, ds).items()}

    def backfill(self, first: str | None = None, last: str | None = None, *, wait: bool = False) -> pd.DataFrame:
        """Run the missing, failed and stale steps of several nights, as `star-ctr backfill` does.

        Args:
            first: The first night; by default the oldest one that was ever run.
            last: The last night; by default the newest complete day of the logs.
            wait: Whether to wait for another process that writes to the warehouse, instead of failing.

        Returns:
            One row per night and step: `ds`, `step`, `action` and `reason`.
        """
        from star_ctr.workflows import backfill

        with self._write("backfill", wait) as spark:
            return pd.DataFrame(backfill.run(self.settings, spark, first, last))

    def _write(self, command: str, wait: bool) -> AbstractContextManager[SparkSession]:
        from star_ctr.workflows.spark_session import open_session

        return open_session(self.settings, command, writes=True, wait=wait)

    def __repr__(self) -> str:
        serving = find_serving(Decisions(self._settings).read_all())
        model = f"serving {serving.run_id} (attempt {serving.attempt})" if serving else "no model is served"
        return f"Project {self.settings.name}: {len(self.tables)} tables in {self.warehouse}, {model}"
