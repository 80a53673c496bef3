"""Bulk: a run's model over any table, raw impressions or encoded rows, into a Delta table of scores.

Raw rows get the features that were known at each one's time from the warehouse's tables, by the code of the night, and
are encoded by the model's own layout and vocabularies. Rows that cannot be scored go to `<output>_rejected`, whole and
with a reason: rows in = scored + left out. The scores are replaced in one commit, so that a job killed anywhere leaves
the output before and can simply be run again.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/tools/batch_score.py --conf conf/kuairand.yaml \
      --run-id 2022-05-05-star-pn-aux-s0-0123456789 --input candidates --output scored
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, StringType, StructField, StructType

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.contracts.column_names import IDENTITY
from star_ctr.conf.contracts.encoded_row import OTHER, Layout
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
from star_ctr.features.point_in_time.scan_planner import _ArrowScan
from star_ctr.jobs.features import add_columns, add_own_columns, add_point_in_time, select_columns
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
from star_ctr.jobs.registry.models import Model, find_model
from star_ctr.jobs.score import describe_model, load_predictor
from star_ctr.jobs.split import load_encoder
from star_ctr.model.data.reader import unpack_columns

COLUMNS = ("run_id", "impression_id", "user_id", "domain", "score")
"""What the output has of every row, before the columns that are carried along."""
NAMED = 20
"""Reasons, or unknown domains, that are told one by one."""


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
    """Score the table `source` with run `run_id` into the Delta table `target`; returns what became of its rows.

    `columns` of the source go along. The run's own settings hold; of `settings`, those of places and of Spark alone.
    `unknown_domain`: defaults to the run's `domains.unknown`. `attempt`: the serving one of this run by default, else
    the newest. Raises `DataError`, and leaves existing scores in place, if a score is NaN or outside [0, 1].
    """
    store = WarehouseTables(settings, spark)
    now = find_serving(Decisions(settings).all())
    if attempt is None and now is not None and now.run_id == run_id:
        attempt = now.attempt
    model = find_model(settings, run_id, attempt)
    policy = unknown_domain or ("drop" if model.settings.domains.unknown == "drop" else "other")
    given = load_external_table(spark, source)
    rejected = f"{target.rstrip('/')}_rejected"
    _check_target(store, target, rejected, source)
    rows = filter_rows(given.rows, where)
    _check_columns(rows, columns)
    rows_in = rows.count()
    if not rows_in:
        raise DataError(f"{source}: holds no row{f' for which {where} holds' if where else ''}; nothing was written")
    if encoded:
        checked = check_encoded_rows(rows, model.layout, policy, columns, source)
        # Wide rows: what comes of them is kept, so that they are read once and not also for what is wrong with them.
        requests = checked.mapInArrow(*_make_score_function(checked, model, encoded)).persist()
    else:
        requests = checked = clean_raw_rows(model.settings, rows, model.layout, policy, columns, source).persist()
    try:
        if policy == "fail":
            _refuse_unknown(checked, model.layout, source)
        good = requests.where(F.col("reason").isNull()).drop("reason", "raw")
        metadata = {
            "run_id": run_id,
            "attempt": model.attempt.number,
            "input": resolve_address(spark, source),
            "version": given.version,
            "where": where,
        }
        left_out = requests.where(F.col("reason").isNotNull()).drop(CARRIED, "score")
        left_out = left_out.select(F.lit(run_id).alias("run_id"), "reason", dump_row(left_out).alias("row"))
        out = replace_external_table(left_out, rejected, metadata)
        judged = _count_inputs(requests, rows_in)
        if not judged.good:
            raise DataError(
                f"{source}: no row of {rows_in:,} can be scored: {format_reasons(judged.reasons)}; see {rejected}"
            )
        carried = [f"{CARRIED}.*"] if columns else []
        with nullcontext(good) if encoded else _score_raw_rows(store, model, good, str(judged.newest)) as scores:
            scores = scores.select(F.lit(run_id).alias("run_id"), *COLUMNS[1:], *carried).persist()
            try:
                check_scores(scores, source)
                scored = replace_external_table(scores, target, metadata | {"rejected_version": out.version})
            finally:
                scores.unpersist()
    finally:
        requests.unpersist()
    if scored.rows + out.rows != rows_in:
        raise DataError(
            f"{source}: {rows_in:,} rows, and {scored.rows:,} scored and {out.rows:,} left out; see {rejected}"
        )
    return {
        "run_id": run_id, "attempt": model.attempt.number, "input": source, "input_version": given.version,
        "output": target, "output_version": scored.version, "rejected": rejected, "unknown_domain": policy,
        "rows": rows_in, "scored": scored.rows, "left_out": out.rows, "reasons": judged.reasons,
    }  # fmt: skip


def format_reasons(reasons: dict[str, int]) -> str:
    """Reasons with their rows, in one line."""
    return ", ".join(f"{reason} ({n:,})" for reason, n in reasons.items())


def _check_target(store: WarehouseTables, target: str, rejected: str, source: str) -> None:
    """`UserError` unless the output may be replaced: a place of its own, with nothing there or a table of scores."""
    spark = store.spark
    taken = {"the input": resolve_address(spark, source)}
    taken |= {f"the warehouse's `{name}`": resolve_address(spark, store.warehouse.table(name)) for name in TABLES}
    for path, own in ((target, COLUMNS), (rejected, ("run_id", "reason", "row"))):
        here = resolve_address(spark, path)
        for what, there in taken.items():
            if is_within(here, there) or is_within(there, here):
                raise UserError(f"--output {target}: {path} would overwrite {what}; give a folder of its own")
        found = list_delta_columns(spark, path)
        if found is not None and not set(own) <= set(found):
            has = f"has the columns {', '.join(found)}" if found else "is no Delta table"
            raise UserError(f"--output {target}: {path} {has}, and is not overwritten; give another folder")


def _check_columns(rows: DataFrame, columns: Sequence[str]) -> None:
    """`UserError` for a column that cannot go along."""
    for name in columns:
        if name not in rows.columns:
            there = ", ".join(rows.columns)
            raise UserError(
                f"--columns {name}: the input has no such column{suggest_nearest(name, rows.columns)} ({there})"
            )
        if name.lower() in COLUMNS or columns.count(name) > 1:
            raise UserError(f"--columns {name}: the output would have two columns of that name; leave it out")


def _refuse_unknown(requests: DataFrame, layout: Layout, source: str) -> None:
    found = count_unknown_domains(requests, layout)
    named = {r.domain: r["count"] for r in found.limit(NAMED).collect()}
    if named:
        total = found.agg(F.count("*").alias("domains"), F.sum("count").alias("rows")).first()
        assert total is not None
        more = f" and {total.domains - len(named):,} more" if total.domains > len(named) else ""
        raise DataError(
            f"{source}: {total.rows:,} rows of domains that the model does not know: {format_reasons(named)}{more}; it knows "
            f"{', '.join(layout.domains)}; --unknown-domain other scores such rows, drop leaves them out"
        )


class _InputCounts(NamedTuple):
    """How many requests are good, the newest day of those, and why others are left out: rows by reason."""

    good: int
    newest: str | None
    reasons: dict[str, int]


def _count_inputs(requests: DataFrame, rows: int) -> _InputCounts:
    """The most frequent reasons by name, the rest together."""
    newest = F.max("ds") if "ds" in requests.columns else F.lit(None)
    counts = requests.groupBy("reason").agg(F.count("*").alias("rows"), newest.alias("newest"))
    found = counts.orderBy(F.col("reason").isNotNull(), F.desc("rows"), "reason").limit(NAMED + 1).collect()
    good = found.pop(0) if found[0].reason is None else None
    named = {row.reason: row.rows for row in found[:NAMED]}
    rest = rows - (good.rows if good else 0) - sum(named.values())
    reasons = named | ({"other reasons": rest} if rest else {})
    return _InputCounts(good.rows, good.newest, reasons) if good else _InputCounts(0, None, reasons)


def _score_raw_rows(
    store: WarehouseTables, model: Model, requests: DataFrame, newest: str
) -> AbstractContextManager[DataFrame]:
    """The scores of raw requests, by features as known at each one's time from what the warehouse holds."""
    settings, carried = model.settings, [c for c in (CARRIED,) if c in requests.columns]
    rows = add_columns(settings, store, select_columns(settings, requests, settings.features), settings.features)
    rows = rows.select(*(c for c in IDENTITY if c != "label"), *add_own_columns(settings, rows), *carried)
    scoring = _make_score_function(rows, model, encoded=False)
    return add_point_in_time(settings, store, rows, newest, scoring)


def _make_score_function(rows: DataFrame, model: Model, encoded: bool) -> _ArrowScan:
    """How encoded rows, or features, become scores, with CARRIED if `rows` has that.

    Encoded rows may have a `reason` not to be scored, which goes along with `raw`.
    """
    served, history = describe_model(rows.sparkSession, model.attempt), list(model.settings.history)
    files = model.vocabularies
    along = [*(("reason", "raw") if encoded else ()), *((CARRIED,) if CARRIED in rows.columns else ())]
    first = COLUMNS[1:4]

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predictor = load_predictor(served)
        layout = predictor.layout
        known = pa.array(layout.domains, type=pa.string())
        for batch in batches:
            if batch.num_rows == 0:
                continue
            ids, domain = [batch.column(c) for c in first[:2]], batch.column("domain")
            good = np.ones(batch.num_rows, bool)
            if encoded:
                good = pc.is_null(batch.column("reason")).to_numpy(zero_copy_only=False)
                of = batch if good.all() else batch.filter(pa.array(good))
                ints, floats, number = (of.column(c) for c in ("ints", "floats", "domain_id"))
            else:
                ints, floats = load_encoder(layout, files, history).encode(pa.Table.from_batches([batch]))
                number = pc.add(pc.fill_null(pc.index_in(domain, value_set=known), -1), 1)
                domain = pa.array([OTHER, *layout.domains]).take(number)
            scores = np.full(batch.num_rows, np.nan)
            if good.any():
                scores[good] = predictor.predict(
                    *unpack_columns(ints, floats, layout), number.to_numpy().astype(np.int32)
                )
            columns = [*ids, domain, pa.array(scores), *(batch.column(c) for c in along)]
            yield pa.RecordBatch.from_arrays(columns, names=[*first, "score", *along])

    fields = [*(StructField(name, StringType()) for name in first), StructField("score", DoubleType())]
    return _ArrowScan(score, StructType([*fields, *(rows.schema[c] for c in along)]))


def declare(parser: argparse.ArgumentParser) -> None:
    """The arguments of the job under spark-submit, beside --conf and --set."""
    parser.add_argument("--run-id", required=True, help="the run whose model scores")
    parser.add_argument(
        "--attempt", type=int, help="the attempt of the run: the serving or the newest one if not given"
    )
    parser.add_argument("--input", required=True, dest="source", help="a Delta or Parquet table, by path or URL")
    parser.add_argument("--output", required=True, dest="target", help="the Delta table of scores, replaced as a whole")
    parser.add_argument("--where", help="SQL: those rows of the input alone")
    parser.add_argument(
        "--columns", default=(), type=lambda text: text.split(","), help="of the input, to go along: a,b"
    )
    parser.add_argument("--encoded", action="store_true", help="the input has ints, floats and domain_id")
    parser.add_argument("--unknown-domain", choices=get_args(Policy), help="as the run's domains.unknown if not given")


if __name__ == "__main__":
    run_submitted("bulk", run, declare)
