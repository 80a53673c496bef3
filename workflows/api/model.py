"""Models of a project, which predict the CTR of rows in pandas DataFrames."""

from __future__ import annotations

import json
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, WEIGHTS_FILE
from star_ctr.conf.errors import UserError
from star_ctr.jobs.registry.models import ScoringModel

if TYPE_CHECKING:
    from star_ctr.features.encoding.scoring_rows import Policy
    from star_ctr.model.predictor import Predictor
    from star_ctr.workflows.api.project import Project

_BATCH = 16_384
"""Number of rows that are scored at once."""
_ENCODED = ("ints", "floats", "domain_id")
_POSITION = "star_ctr_position"
"""Column with the position of a row in the input, which identifies it in the output."""


class Model:
    """A published model. Its files have been checked against the training record.

    Args:
        project: The project.
        found: The model with its layout and settings.
    """

    def __init__(self, project: Project, found: ScoringModel) -> None:
        self._project, self._found = project, found

    @property
    def run_id(self) -> str:
        """The run that trained the model."""
        return self._found.attempt.run_id

    @property
    def attempt(self) -> int:
        """The attempt of the run."""
        return self._found.attempt.number

    @property
    def folder(self) -> Path:
        """The folder of the model's files."""
        return self._found.attempt.folder

    @property
    def domains(self) -> list[str]:
        """The domains that the model knows."""
        return list(self._found.layout.domains)

    @cached_property
    def _predictor(self) -> Predictor:
        from star_ctr.model.predictor import Predictor

        files = self._found.attempt.record()["files"]
        return Predictor(self.folder, {name: files[name] for name in (WEIGHTS_FILE, LAYOUT_FILE)})

    def load_test_rows(self) -> pd.DataFrame:
        """Return the encoded test rows of the model's night, from the table version that the run is pinned to.

        Only rows that are encoded with the vocabularies of the run have a meaning for its model. A refit has no test
        rows.
        """
        record = self._found.attempt.record()
        split = self._project.table("split", version=record["versions"]["split"])
        return split.filter("part = 'test'", ds=record["ds"]).to_pandas()

    def predict(self, rows: pd.DataFrame) -> pd.Series[float]:
        """Predict the CTR of encoded rows, without Spark.

        Args:
            rows: Rows with the columns `ints`, `floats` and `domain_id`, as in the table `split`. They must be encoded
                with the vocabularies of this run (see `load_test_rows`).

        Returns:
            The predicted CTR of each row, with the index of `rows`.

        Raises:
            UserError: A column is missing, or a domain number is invalid.
            DataError: The size of a row does not match the layout of the model.
        """
        from star_ctr.model.data.reader import unpack_columns

        if missing := [column for column in _ENCODED if column not in rows]:
            raise UserError(
                f"no column {', '.join(missing)}: `predict` needs encoded rows, as in the table `split`; use "
                "`score_impressions` for rows of the impression log"
            )
        domains = rows["domain_id"].to_numpy()
        if not np.isin(domains, np.arange(len(self.domains) + 1)).all():
            raise UserError(f"domain_id: the model requires values from 0 to {len(self.domains)}")
        scores = np.empty(len(rows))
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            ints, floats = (pa.array(rows[c].iloc[part], pa.binary()) for c in ("ints", "floats"))
            matrices = unpack_columns(ints, floats, self._found.layout)
            scores[part] = self._predictor.predict(*matrices, domains[part].astype(np.int32))
        return pd.Series(scores, rows.index, name="score")

    def score_impressions(self, rows: pd.DataFrame, unknown_domain: Policy | None = None) -> pd.DataFrame:
        """Score rows of the impression log, with features as of the time of each row. Starts Spark.

        Features are computed from the tables of the warehouse, as `star-ctr score --input` does.

        Args:
            rows: Rows with the columns of the impression log. The label and the outcomes are not needed.
            unknown_domain: What to do with domains that the model does not know: score them as domain `other`, `drop`
                them, or `fail`. Defaults to the run's `domains.unknown`.

        Returns:
            The columns `domain`, `score` and `reason`, with the index of `rows`. A row that cannot be scored has no
            score, and the reason.

        Raises:
            UserError: Spark runs on a cluster, which cannot read the rows of this process.
            DataError: Columns are missing, or no row can be scored.
        """
        from star_ctr.jobs.tools import batch_score

        spark = self._project.spark
        if not str(spark.sparkContext.master).startswith("local"):
            raise UserError("spark.master: on a cluster, write the rows to a table and run `star-ctr score --input`")
        with tempfile.TemporaryDirectory(prefix="star-ctr-") as folder:
            source, target = f"{folder}/rows.parquet", f"{folder}/scores"
            rows.assign(**{_POSITION: range(len(rows))}).to_parquet(source, index=False)
            batch_score.run(
                self._project.settings, spark, run_id=self.run_id, attempt=self.attempt, source=source, target=target,
                columns=[_POSITION], unknown_domain=unknown_domain,
            )  # fmt: skip
            scored = spark.read.format("delta").load(target).select(_POSITION, "domain", "score").toPandas()
            rejected = spark.read.format("delta").load(f"{target}_rejected").select("reason", "row").toPandas()
        rejected.index = pd.Index([int(json.loads(row)[_POSITION]) for row in rejected["row"]], dtype="int64")
        found = scored.set_index(_POSITION).reindex(range(len(rows)))
        found["reason"] = rejected["reason"].reindex(found.index)
        return found.set_axis(rows.index)

    def __repr__(self) -> str:
        return f"Model of {self.run_id} (attempt {self.attempt}): {len(self.domains)} domains"
