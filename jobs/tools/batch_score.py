"""Batch scoring: score a table of raw impressions or encoded rows with the model of a run, into a Delta table.

1. Clean and check the input. Write the complete rows that cannot be scored, with reasons, to `<output>_rejected`.
2. Raw rows: compute their features from the history of the warehouse, as a night does, and encode them for the model.
3. Score the rows and replace the output in one commit. A killed job leaves the previous output, and can run again.

The number of input rows equals the number of scored rows plus the number of rejected rows.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/tools/batch_score.py --conf conf/kuairand.yaml \
      --run-id 2022-05-05-star-pn-aux-s0-0123456789 --input candidates --output scored
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, get_args

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.contracts.column_names import IDENTITY_COLUMNS
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError, UserError, suggest_nearest
from star_ctr.conf.settings.root import Settings
from star_ctr.features.cleaning.clean_log import dump_row
from star_ctr.features.encoding.scoring_rows import (
    CARRIED,
    Policy,
    check_encoded_rows,
    clean_raw_rows,
    count_unknown_domains,
)
from star_ctr.features.point_in_time.row_columns import select_row_columns
from star_ctr.jobs.features import add_point_in_time
from star_ctr.jobs.history.inputs import add_columns, find_cut_days, select_columns
from star_ctr.jobs.history.state import HistoryState
from star_ctr.jobs.io.external_tables import (
    filter_rows,
    is_within,
    list_delta_columns,
    load_external_table,
    replace_external_table,
    resolve_address,
)
from star_ctr.jobs.io.session import run_submitted
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.score_checks import check_scores
from star_ctr.jobs.registry.decisions import Decisions, find_serving
from star_ctr.jobs.registry.models import ScoringModel, find_scoring_model
from star_ctr.jobs.tools.score_function import COLUMNS, make_score_function

MAX_LISTED = 20
"""Maximum number of reasons, or of unknown domains, that are listed individually."""


def run(
    settings: Settings,
    spark: SparkSession,
    *,
    run_id: str,
    source: str,
    target: str,
    where: str | None = None,
    columns: Sequence[str] = (),
    encoded: bool = False,
    unknown_domain: Policy | None = None,
    attempt: int | None = None,
) -> dict[str, Any]:
    """Score the table `source` with the model of run `run_id`, and replace the Delta table `target` with the scores.

    Args:
        settings: The current settings. Only `paths` and `spark` are used; all others come from the run.
        spark: The session.
        run_id: The run whose model to use.
        source: Path or URL of a Delta or Parquet table with the columns of the impression log, or with encoded rows.
        target: Path or URL of the output, which has COLUMNS, `columns`, and `outcome_scores` if the model predicts
            further outcomes.
        where: SQL condition that selects the input rows; all rows by default.
        columns: Input columns to copy to the output.
        encoded: Whether the input contains encoded rows (`ints`, `floats` and `domain_id`).
        unknown_domain: How to treat domains that the model does not know; the run's `domains.unknown` by default.
        attempt: The attempt of the run. Defaults to the serving attempt if it is of this run, else to the newest one.

    Returns:
        The tables with their versions, and the number of rows that were read, scored and left out, with the reasons.

    Raises:
        UserError: The run does not exist, the output must not be overwritten, or an option is invalid.
        DataError: The input or its domains cannot be used, or a score is NaN or outside [0, 1]. `target` is unchanged.
    """
    store = WarehouseTables(settings, spark)
    now = find_serving(Decisions(settings).read_all())
    if attempt is None and now is not None and now.run_id == run_id:
        attempt = now.attempt
    model = find_scoring_model(settings, run_id, attempt)
    policy = unknown_domain or ("drop" if model.settings.domains.unknown == "drop" else "other")
    table = load_external_table(spark, source)
    rejected = f"{target.rstrip('/')}_rejected"
    _check_target(store, target, rejected, source)
    rows = filter_rows(table.rows, where)
    _check_columns(rows, columns)
    rows_in = rows.count()
    if not rows_in:
        raise DataError(f"{source}: no rows{f' match --where {where}' if where else ''}; nothing was written")
    if encoded:
        checked = check_encoded_rows(rows, model.layout, policy, columns, source)
        # Encoded rows are wide. Cache the scores and reasons instead of the rows, so that the rows are read only once.
        prepared = checked.mapInArrow(*make_score_function(checked, model, encoded)).persist()
    else:
        prepared = checked = clean_raw_rows(model.settings, rows, model.layout, policy, columns, source).persist()
    try:
        if policy == "fail":
            _reject_unknown_domains(checked, model.layout, source)
        valid = prepared.where(F.col("reason").isNull()).drop("reason", "raw")
        metadata = {
            "run_id": run_id, "attempt": model.attempt.number, "input": resolve_address(spark, source),
            "version": table.version, "where": where,
        }  # fmt: skip
        left_out = prepared.where(F.col("reason").isNotNull()).drop(CARRIED, "score")
        left_out = left_out.select(F.lit(run_id).alias("run_id"), "reason", dump_row(left_out).alias("row"))
        out = replace_external_table(left_out, rejected, metadata)
        counts = _count_rows(prepared, rows_in)
        if not counts.valid:
            problem = f"none of the {rows_in:,} rows can be scored: {format_reasons(counts.reasons)}"
            raise DataError(f"{source}: {problem}; see {rejected}")
        carried = [f"{CARRIED}.*"] if columns else []
        with nullcontext(valid) if encoded else _score_raw_rows(store, model, valid, counts) as scores:
            outcomes = [name for name in ("outcome_scores",) if name in scores.columns]
            scores = scores.select(F.lit(run_id).alias("run_id"), *COLUMNS[1:], *outcomes, *carried)
            scores = scores if encoded else scores.persist()  # those of encoded rows are cached already
            try:
                check_scores(scores, source)
                scored = replace_external_table(scores, target, metadata | {"rejected_version": out.version})
            finally:
                scores.unpersist()
    finally:
        prepared.unpersist()
    if scored.rows + out.rows != rows_in:
        raise DataError(
            f"{source}: read {rows_in:,} rows, but scored {scored.rows:,} and left out {out.rows:,}; see {rejected}"
        )
    return {
        "run_id": run_id, "attempt": model.attempt.number, "input": source, "input_version": table.version,
        "output": target, "output_version": scored.version, "rejected": rejected, "unknown_domain": policy,
        "rows": rows_in, "scored": scored.rows, "left_out": out.rows, "reasons": counts.reasons,
    }  # fmt: skip


def format_reasons(reasons: dict[str, int]) -> str:
    """Format reasons with their numbers of rows, in one line."""
    return ", ".join(f"{reason} ({n:,})" for reason, n in reasons.items())


def _check_target(store: WarehouseTables, target: str, rejected: str, source: str) -> None:
    """Raise `UserError` if the output would overwrite the input, a table of the warehouse, or anything but scores."""
    spark = store.spark
    protected = {"the input": resolve_address(spark, source)}
    protected |= {f"the warehouse's `{name}`": resolve_address(spark, store.warehouse.table(name)) for name in TABLES}
    for path, expected in ((target, COLUMNS), (rejected, ("run_id", "reason", "row"))):
        address = resolve_address(spark, path)
        for what, other in protected.items():
            if is_within(address, other) or is_within(other, address):
                raise UserError(f"--output {target}: {path} would overwrite {what}; choose another path")
        found = list_delta_columns(spark, path)
        if found is not None and not set(expected) <= set(found):
            problem = f"has the columns {', '.join(found)}" if found else "is not a Delta table"
            raise UserError(f"--output {target}: {path} {problem}, so it does not hold scores; choose another path")


def _check_columns(rows: DataFrame, columns: Sequence[str]) -> None:
    """Raise `UserError` for a column that cannot be copied to the output."""
    for name in columns:
        if name not in rows.columns:
            nearest = suggest_nearest(name, rows.columns)
            raise UserError(
                f"--columns {name}: the input has no such column{nearest} (columns: {', '.join(rows.columns)})"
            )
        if name.lower() in (*COLUMNS, "outcome_scores") or columns.count(name) > 1:
            raise UserError(f"--columns {name}: the output would have two columns with this name; remove one of them")


def _reject_unknown_domains(rows: DataFrame, layout: Layout, source: str) -> None:
    """Raise `DataError` if valid rows have domains that the model does not know."""
    found = count_unknown_domains(rows, layout)
    named = {r.domain: r["count"] for r in found.limit(MAX_LISTED).collect()}
    if named:
        total = found.agg(F.count("*").alias("domains"), F.sum("count").alias("rows")).first()
        assert total is not None
        more = f" and {total.domains - len(named):,} more" if total.domains > len(named) else ""
        raise DataError(
            f"{source}: {total.rows:,} rows have domains that the model does not know: {format_reasons(named)}{more}; "
            f"it knows {', '.join(layout.domains)}. Pass --unknown-domain other to score these rows, or drop to leave "
            "them out"
        )


class _RowCounts(NamedTuple):
    """The number of valid rows, their newest day, and the number of rejected rows by reason."""

    valid: int
    newest: str | None
    reasons: dict[str, int]


def _count_rows(prepared: DataFrame, total: int) -> _RowCounts:
    """Count valid and rejected rows. Lists the most frequent reasons individually, and all others as one entry."""
    newest = F.max("ds") if "ds" in prepared.columns else F.lit(None)
    counts = prepared.groupBy("reason").agg(F.count("*").alias("rows"), newest.alias("newest"))
    found = counts.orderBy(F.col("reason").isNotNull(), F.desc("rows"), "reason").limit(MAX_LISTED + 1).collect()
    valid = found.pop(0) if found[0].reason is None else None
    named = {row.reason: row.rows for row in found[:MAX_LISTED]}
    rest = total - (valid.rows if valid else 0) - sum(named.values())
    reasons = named | ({"other reasons": rest} if rest else {})
    return _RowCounts(valid.rows, valid.newest, reasons) if valid else _RowCounts(0, None, reasons)


def _score_raw_rows(
    store: WarehouseTables, model: ScoringModel, cleaned: DataFrame, counts: _RowCounts
) -> AbstractContextManager[DataFrame]:
    """Compute point-in-time features of cleaned rows, and yield their scores. Write them within the block."""
    settings, carried = model.settings, [c for c in (CARRIED,) if c in cleaned.columns]
    rows = add_columns(settings, store, select_columns(settings, cleaned, settings.features), settings.features)
    rows = rows.select(*IDENTITY_COLUMNS, *select_row_columns(settings, rows), *carried)
    state, score = HistoryState(settings, store, str(counts.newest)), make_score_function(rows, model, encoded=False)
    return add_point_in_time(settings, state, rows, find_cut_days(settings, cleaned), counts.valid, score)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's options for `spark-submit`, in addition to --conf and --set."""
    parser.add_argument("--run-id", required=True, help="run whose model to use")
    parser.add_argument("--attempt", type=int, help="attempt of the run; the serving or else the newest one by default")
    parser.add_argument("--input", required=True, dest="source", help="path or URL of a Delta or Parquet table")
    parser.add_argument("--output", required=True, dest="target", help="path or URL of the Delta table to replace")
    parser.add_argument("--where", help="SQL condition that selects the input rows")
    parser.add_argument(
        "--columns", default=(), type=lambda text: text.split(","), help="input columns to copy to the output: a,b"
    )
    parser.add_argument("--encoded", action="store_true", help="the input has the columns ints, floats and domain_id")
    choices = get_args(Policy)
    parser.add_argument(
        "--unknown-domain",
        choices=choices,
        help="defaults to the run's `domains.unknown` (`bucket` corresponds to `other`)",
    )


if __name__ == "__main__":
    run_submitted("bulk", run, add_arguments)
