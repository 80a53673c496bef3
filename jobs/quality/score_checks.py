"""Checks of scores in Spark. They run before metrics, in which a NaN would be ranked or averaged silently."""

from __future__ import annotations

from pyspark.sql import DataFrame

from star_ctr.conf.errors import DataError
from star_ctr.features.evaluation.metrics import count_invalid
from star_ctr.model import score_checks


def check_scores(scores: DataFrame, where: str) -> int:
    """Return the number of rows; raises `DataError`, with rows by domain, if scores or labels are invalid.

    `scores`: run_id, domain, score and, optionally, label; `where`: the table of the scores, for messages.
    """
    found = count_invalid(scores).collect()
    for run_id in sorted({r.run_id for r in found}):
        of_run = [r for r in found if r.run_id == run_id]
        rows = sum(r.rows for r in of_run)
        bad = {r.domain: r.bad_scores for r in of_run if r.bad_scores}
        if bad:
            raise DataError(score_checks.format_invalid_scores(f"{where}: {run_id}", sum(bad.values()), rows, bad))
        if labels := sum(r.bad_labels for r in of_run):
            raise DataError(f"{where}: {run_id}: {labels:,} of {rows:,} rows have a label that is not 0 or 1")
    return sum(r.rows for r in found)
