"""Split: encode the days of the training window as train and the next day as test, for the trainer.

Vocabularies, scales and bucket bounds are fitted on the training days only, or extend those of an earlier night
(`split.vocabulary: grown`). A night writes one Delta commit. With grown vocabularies, training days that are stored
already are not written again. The metadata of the commit contains the layout, the version of the vocabularies and the
stored training days, so a version of `split` is all that a trainer needs to be pinned to.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/split.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import NIGHT_TABLES, SplitTables
from star_ctr.conf.contracts.compatibility import check_fitted
from star_ctr.conf.contracts.dates import check_day, list_window_days
from star_ctr.conf.contracts.domains import OTHER_NAME, domain_sort_key
from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, TEST, TRAIN, TRAIN_DAY, Layout
from star_ctr.conf.contracts.run_id import hash_features_settings
from star_ctr.conf.contracts.vocabulary import list_vocabulary_files
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.layout import fit_layout
from star_ctr.features.encoding.vocabularies import count_expired, fit_vocabularies
from star_ctr.jobs.history.labels import add_labels
from star_ctr.jobs.io.day_records import DayRecords
from star_ctr.jobs.io.encoded_rows import encode
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.split_commits import DAYS, EXPIRED, LINEAGE
from star_ctr.jobs.io.split_inputs import EarlierSplit, find_inputs
from star_ctr.jobs.io.split_ledger import (
    RowCount,
    check_training_rows,
    count_rows,
    is_left_out,
    write_outcome_ledger,
    write_split_ledger,
)
from star_ctr.jobs.io.training_days import PART as ENCODED
from star_ctr.jobs.io.training_days import plan_training_days
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition, quote_spark_literal

_logger = logging.getLogger(__name__)


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write the split of night `ds`; returns the number of rows of `train` and `test`. See `write_split`."""
    return write_split(settings, spark, ds, NIGHT_TABLES)


def write_split(settings: Settings, spark: SparkSession, ds: str | None, tables: SplitTables) -> dict[str, int]:
    """Write the split of a night or of its refit, and its vocabularies and ledger entries.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; by default the newest day of `features`.
        tables: The tables to write. The split of a night tests on `ds` and trains on the days of the window before it.
            The split of a refit trains on the window that ends with `ds`, and has no test rows.

    Returns:
        The number of rows of `train` and `test`.

    Raises:
        DataError: `features` lacks days of the window, or was computed with other settings.
        UserError: Training cannot start from the run in `trainer.warm_start`, for example because its features differ.
    """
    store = WarehouseTables(settings, spark)
    stored_days = store.list_days("features")
    ds = check_day(ds) if ds else store.get_newest_day("features")
    test_day = ds if tables is NIGHT_TABLES else None
    rows = _read_features(settings, store, ds, stored_days, test_day)
    is_test = F.col("ds") == F.lit(test_day) if test_day else F.lit(False)
    counts = count_rows(settings, rows, is_test)
    rows = rows.where(is_test | ~is_left_out(settings))
    train = rows.where(~is_test)
    inputs = find_inputs(settings, store, ds, tables)
    before, start = inputs.previous, inputs.start
    fingerprint = inputs.fingerprint(settings, store)
    domains = settings.domains.known or _list_domains(
        {c.domain for c in counts if c.part == "train" and not c.is_left_out}, before and before.layout
    )
    write_split_ledger(settings, store, tables.split, ds, counts, domains)
    check_training_rows(store, ds, counts)
    vocabularies = fit_vocabularies(settings, train, ds, before and before.vocabularies).withColumn("ds", F.lit(ds))
    version = store.replace(
        tables.vocabularies,
        vocabularies.coalesce(1).sortWithinPartitions("embedding", "id"),
        f"ds = {quote_spark_literal(ds)}",
    )
    written = store.read(tables.vocabularies, version).where(F.col("ds") == ds)
    highest = written.groupBy("embedding").agg(F.max("id").alias("id")).collect()
    sizes = {r.embedding: r.id + 1 - FIRST_KNOWN for r in highest}
    layout = fit_layout(settings, train, domains, sizes, ds, inputs.get_kept_layout())
    if start:
        check_fitted(start.run_id, start.layout, layout)
    known = F.col("domain").isin(domains)
    selected = rows if settings.domains.unknown == "bucket" else rows.where(known)
    selected = selected.withColumn("domain", F.when(known, F.col("domain")).otherwise(OTHER_NAME))
    write_outcome_ledger(settings, store, tables.split, ds, selected.where(~is_test))
    expired = _count_expired(settings, before, written)
    metadata = {"ds": ds, **fingerprint, "vocabularies": version, "layout": layout.model_dump(mode="json")}
    metadata |= {EXPIRED: expired} if expired else {}
    where = f"(ds = {quote_spark_literal(ds)} AND part IN ('{TRAIN}', '{TEST}'))"
    plan = None
    if settings.split.vocabulary == "grown" and test_day:
        days = sorted({c.ds for c in counts if c.part == TRAIN})
        plan = plan_training_days(settings, store, ds, days, layout, before)
        metadata |= {DAYS: plan.days, LINEAGE: plan.lineage}
        selected = selected.where(is_test | F.col("ds").isin(list(plan.encoded)))
        if plan.encoded:
            where += f" OR (part = '{TRAIN_DAY}' AND {make_in_condition('ds', sorted(plan.encoded))})"
        DayRecords(settings).remove(ENCODED, list(plan.encoded))
    selected = selected.withColumn("part", F.when(is_test, TEST).otherwise(TRAIN_DAY if plan else TRAIN))
    encoded = encode(
        settings, selected, layout, list_vocabulary_files(store.warehouse.table(tables.vocabularies), version, ds)
    )
    store.replace(
        tables.split,
        _arrange_rows(settings, encoded.withColumn("ds", F.col("day") if plan else F.lit(ds)), counts, domains),
        where,
        metadata=json.dumps(metadata),
        maxRecordsPerFile=settings.split.rows_per_file,
    )
    if plan:
        DayRecords(settings).write(ENCODED, plan.encoded)
    is_known = {c.domain: settings.domains.unknown == "bucket" or c.domain in domains for c in counts}
    kept = [c for c in counts if is_known[c.domain] and not c.is_left_out]
    return {name: sum(c.rows for c in kept if c.part == name) for name in ("train", "test")}


def _count_expired(settings: Settings, before: EarlierSplit | None, written: DataFrame) -> dict[str, int]:
    """Return the number of values that expired on a night, by embedding table, and log it."""
    expires = any(table.expire_days is not None for table in settings.model.embeddings.values())
    if before is None or not expires:
        return {}
    expired = count_expired(settings, before.vocabularies, written)
    for name, number in expired.items():
        _logger.info("vocabulary %s: %d values have expired (model.embeddings.%s.expire_days)", name, number, name)
    return expired


def _list_domains(seen: set[str], before: Layout | None) -> list[str]:
    """Return the domains of the layout: those of `before` in their order, then the new ones."""
    known = before.domains if before else []
    return [*known, *sorted(seen - {*known, OTHER_NAME}, key=domain_sort_key)]


def _read_features(
    settings: Settings, store: WarehouseTables, ds: str, stored_days: list[str], test_day: str | None
) -> DataFrame:
    """Read the features of the training window and of the test day.

    Without a test day, `ds` is the last day of the window.

    Returns:
        The rows of all days of the window and of the test day that `stored_days` contains, with their labels.

    Raises:
        DataError: Days are missing, or their features were computed with other settings.
    """
    wanted = list_window_days(settings, ds) if test_day else list_window_days(settings, ds)[1:]
    days = [day for day in wanted if day in stored_days]
    table = store.warehouse.table("features")
    if ds not in days or (test_day and len(days) < 2):
        raise DataError(
            f"{table}: the split of {ds} needs this day and at least one of the {settings.window.days} days before it, "
            f"but the table has {', '.join(stored_days) or 'no day'}; run `star-ctr features --ds {ds}`"
        )
    ingested = store.list_days("impressions") if store.exists("impressions") else []
    if missing := [day for day in wanted if day not in stored_days and day in ingested]:
        raise DataError(
            f"{table}: no rows for {', '.join(missing)}, although `impressions` has these days; run "
            f"`star-ctr features --ds {ds}`"
        )
    rows = store.read("features").where(F.col("ds").isin(days))
    stale = sorted(
        r.ds
        for r in rows.where(F.col("settings") != hash_features_settings(settings)).select("ds").distinct().collect()
    )
    if stale:
        raise DataError(
            f"{table}: {', '.join(stale)} were computed with other settings; run `star-ctr features --ds {ds}`"
        )
    return add_labels(store, rows, days, ds)


def _arrange_rows(
    settings: Settings, rows: DataFrame, counts: Iterable[RowCount], domains: Collection[str]
) -> DataFrame:
    """Arrange rows so that each file is a random sample of one domain of a night or day.

    Rows of a domain are sorted by a hash. A large domain is distributed over as many tasks as its rows fill files of
    `split.rows_per_file` rows. The number of tasks is fixed and the order is total, so a split that is written again
    has the same rows in the same files.

    Args:
        settings: The settings of the data set.
        rows: Encoded rows, with `ds`.
        counts: The numbers of rows.
        domains: The domains of the layout.

    Returns:
        The rows in the partitions and in the order in which they are written.
    """
    by_day = F.col("part") == TRAIN_DAY
    group = F.when(by_day, F.concat_ws("/", "day", "domain")).otherwise(F.col("domain"))
    sizes: dict[str, int] = {}
    for c in counts:
        domain = c.domain if c.domain in domains else OTHER_NAME
        for name in (domain, f"{c.ds}/{domain}"):
            sizes[name] = sizes.get(name, 0) + (0 if c.is_left_out else c.rows)
    files = {name: max(1, math.ceil(n / settings.split.rows_per_file)) for name, n in sizes.items()}
    files_by_group = F.create_map(*(F.lit(x) for pair in files.items() for x in pair))
    tasks = settings.spark.shuffle_partitions
    # Use other bits of the hash than those that dominate the order; otherwise, a task would get a narrow range of it.
    share = F.pmod(F.shiftright("_h", 20), F.coalesce(files_by_group[group], F.lit(1)))
    return (
        rows.withColumn("_h", F.xxhash64("impression_id"))
        .withColumn("_b", F.pmod(F.xxhash64(group) + share, F.lit(tasks)))
        .repartition(tasks, "_b")
        .sortWithinPartitions("ds", "part", "domain", "_h", "impression_id")
        .drop("_h", "_b")
    )


if __name__ == "__main__":
    run_submitted_step("split")
