"""Checks of scores in Spark. They run before metrics are computed, because NaN would distort metrics silently."""

from __future__ import annotations

from pyspark.sql import DataFrame

from star_ctr.conf.errors import DataError
from star_ctr.features.evaluation.metrics import count_invalid
from star_ctr.model import score_checks


def check_scores(scores: DataFrame, where: str) -> int:
    """Check that all scores and labels are valid.

    Args:
        scores: Rows with `run_id`, `domain`, `score` and optionally `label`.
        where: The table of the scores, for messages.

    Returns:
        The number of rows.

    Raises:
        DataError: A score is not in [0, 1], with the number of such rows by domain; or a label is not 0 or 1.
    """
    found = count_invalid(scores).collect()
    for run_id in sorted({r.run_id for r in found}):
        run_counts = [r for r in found if r.run_id == run_id]
        rows = sum(r.rows for r in run_counts)
        bad = {r.domain: r.bad_scores for r in run_counts if r.bad_scores}
        if bad:
            raise DataError(score_checks.format_invalid_scores(f"{where}: {run_id}", sum(bad.values()), rows, bad))
        if labels := sum(r.bad_labels for r in run_counts):
            raise DataError(f"{where}: {run_id}: {labels:,} of {rows:,} rows have a label that is not 0 or 1")
    return sum(r.rows for r in found)
