"""Split: the training window's days and the next day as test, encoded for the stream.

Vocabularies, scales and bucket bounds are fitted on the training days alone. The rows of a night land in one
Delta commit, whose metadata hold the layout and the version of the vocabularies: a version of `split`
is all that a trainer needs to be pinned to.

    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/split.py --conf conf/kuairand.yaml
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import OF_NIGHT, SplitTables
from star_ctr.conf.contracts.compatibility import check_fitted
from star_ctr.conf.contracts.dates import check_day, list_window_days
from star_ctr.conf.contracts.encoded_row import OTHER, Layout, domain_sort_key
from star_ctr.conf.contracts.run_id import hash_features_settings
from star_ctr.conf.contracts.vocabulary import list_vocabulary_files, read_vocabularies
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.layout import fit_layout
from star_ctr.features.encoding.row_encoder import RowEncoder
from star_ctr.features.encoding.vocabularies import fit_vocabularies
from star_ctr.jobs.io.session import run_submitted_step
from star_ctr.jobs.io.split_inputs import find_inputs
from star_ctr.jobs.io.warehouse import LedgerEntry, WarehouseTables, quote_spark_literal

ENCODED = (
    "impression_id string, user_id string, day string, label float, domain_id int, "
    "ints binary, floats binary, part string, domain string"
)


def run(settings: Settings, spark: SparkSession, ds: str | None = None) -> dict[str, int]:
    """Write the split of night `ds`; returns the rows of train and test."""
    return write_split(settings, spark, ds, OF_NIGHT)


def write_split(settings: Settings, spark: SparkSession, ds: str | None, tables: SplitTables) -> dict[str, int]:
    """Write the split of a night or of its refit; returns the rows of train and test.

    Args:
        settings: The settings of the data set.
        spark: The Spark session.
        ds: The night; the newest day of `features` by default.
        tables: The tables to write. A refit's train is the days up to and including `ds`, and it has no test.
    """
    store = WarehouseTables(settings, spark)
    there = store.days("features")
    ds = check_day(ds) if ds else there[-1]
    tested = ds if tables is OF_NIGHT else None
    rows = _read_features(settings, store, ds, there, tested)
    train = rows.where(F.col("ds") != tested) if tested else rows
    counts = rows.groupBy("ds", "domain").count().collect()
    inputs = find_inputs(settings, store, ds, tables)
    before, start = inputs.before, inputs.start
    fingerprint = inputs.fingerprint(settings, store)
    domains = settings.domains.known or _list_domains(
        {r.domain for r in counts if r.ds != tested}, before and before.layout
    )
    parts = {r.ds: "test" if r.ds == tested else "train" for r in counts}
    entries = [(parts[r.ds], r.domain, r["count"]) for r in counts]
    _write_ledger(settings, store, tables.split, ds, entries, domains)
    vocabularies = fit_vocabularies(settings, train, before and before.vocabularies).withColumn("ds", F.lit(ds))
    version = store.replace(
        tables.vocabularies,
        vocabularies.coalesce(1).sortWithinPartitions("embedding", "id"),
        f"ds = {quote_spark_literal(ds)}",
    )
    sizes = {
        r.embedding: r["count"]
        for r in store.read(tables.vocabularies, version)
        .where(F.col("ds") == ds)
        .groupBy("embedding")
        .count()
        .collect()
    }
    layout = fit_layout(settings, train, domains, sizes, ds, inputs.encoding())
    if start:
        check_fitted(start.run_id, start.layout, layout)
    known = F.col("domain").isin(domains)
    kept = rows if settings.domains.unknown == "bucket" else rows.where(known)
    kept = kept.withColumn("domain", F.when(known, F.col("domain")).otherwise(OTHER)).withColumn(
        "part", F.when(F.col("ds") == F.lit(tested), "test").otherwise("train")
    )
    sizes_by_domain: dict[str, int] = {}
    for r in counts:
        name = r.domain if r.domain in domains else OTHER
        sizes_by_domain[name] = sizes_by_domain.get(name, 0) + r["count"]
    encoded = encode(
        settings, kept, layout, list_vocabulary_files(store.warehouse.table(tables.vocabularies), version, ds)
    )
    laid_out = _arrange_rows(settings, encoded, sizes_by_domain).withColumn("ds", F.lit(ds))
    store.replace(
        tables.split,
        laid_out,
        f"ds = {quote_spark_literal(ds)}",
        metadata=json.dumps(
            {
                "ds": ds,
                **fingerprint,
                "vocabularies": version,
                "layout": layout.model_dump(mode="json"),
            }
        ),
        maxRecordsPerFile=settings.split.rows_per_file,
    )
    totals = {"train": 0, "test": 0}
    for part, domain, n in entries:
        if settings.domains.unknown == "bucket" or domain in domains:
            totals[part] += n
    return totals


def _list_domains(seen: set[str], before: Layout | None) -> list[str]:
    """The domains of the layout: those of before, each in its place, then the new ones."""
    known = before.domains if before else []
    return [*known, *sorted(seen - {*known, OTHER}, key=domain_sort_key)]


def _read_features(
    settings: Settings, store: WarehouseTables, ds: str, there: list[str], tested: str | None
) -> DataFrame:
    """The features of a night's window and of the night itself, all made with the settings at hand.

    Where nothing is tested, the night itself is the last of the window's days.
    """
    wanted = list_window_days(settings, ds) if tested else list_window_days(settings, ds)[1:]
    days = [day for day in wanted if day in there]
    where = store.warehouse.table("features")
    if ds not in days or (tested and len(days) < 2):
        raise DataError(
            f"{where}: needs {ds} and at least one day of the {settings.window.days} before it, and holds "
            f"{', '.join(there) or 'no day'}; run `star-ctr features --ds {ds}`"
        )
    ingested = store.days("impressions") if store.exists("impressions") else []
    if lost := [day for day in wanted if day not in there and day in ingested]:
        raise DataError(
            f"{where}: lacks {', '.join(lost)}, although they were ingested; run `star-ctr features --ds {ds}`"
        )
    rows = store.read("features").where(F.col("ds").isin(days))
    stale = sorted(
        r.ds
        for r in rows.where(F.col("settings") != hash_features_settings(settings)).select("ds").distinct().collect()
    )
    if stale:
        raise DataError(f"{where}: {', '.join(stale)} were made with other settings; run `star-ctr features --ds {ds}`")
    return rows


def _write_ledger(
    settings: Settings,
    store: WarehouseTables,
    step: str,
    ds: str,
    counts: list[tuple[str, str, int]],
    domains: list[str],
) -> None:
    """Rows into the split by part and domain; those of domains that training does not know may be left out.

    `counts`: part, domain, rows. All entries stand under the night `ds`; the step's name tells the part: split.train,
    split.test.
    """
    drop = settings.domains.unknown == "drop"
    for part in sorted({part for part, _, _ in counts}):
        entries: dict[tuple[str, str], list[int]] = {}
        for of, domain, n in counts:
            if of != part:
                continue
            left_out = drop and domain not in domains
            name = domain if left_out or domain in domains else OTHER
            entry = entries.setdefault((name, "domain unknown in training" if left_out else ""), [0, 0])
            entry[0] += n
            entry[1] += 0 if left_out else n
        rows = [LedgerEntry(ds, domain, n[0], n[1], reason) for (domain, reason), n in sorted(entries.items())]
        store.write_ledger(f"{step}.{part}", rows, f"ds = {quote_spark_literal(ds)}")


_ENCODERS: dict[tuple[str, ...], RowEncoder] = {}


def load_encoder(layout: Layout, files: list[str], history: list[str]) -> RowEncoder:
    """The encoder of a layout, in a worker: one a process and not one a task, as vocabularies are large."""
    key = (layout.model_dump_json(), *files)
    if key not in _ENCODERS:
        _ENCODERS.clear()
        _ENCODERS[key] = RowEncoder(layout, read_vocabularies(files, history))
    return _ENCODERS[key]


def encode(settings: Settings, rows: DataFrame, layout: Layout, files: list[str]) -> DataFrame:
    """Features rows (with `part`) as packed rows; the workers read the vocabularies from their files."""
    history = list(settings.history)

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        encoder = load_encoder(layout, files, history)
        for batch in batches:
            table = pa.Table.from_batches([batch])
            ints, floats = encoder.encode(table)
            domains = table["domain"].to_pylist()
            ids = {domain: layout.domain_id(domain) for domain in set(domains)}
            yield pa.RecordBatch.from_arrays(
                [
                    *(table[name].combine_chunks() for name in ("impression_id", "user_id", "ds")),
                    table["label"].combine_chunks().cast(pa.float32()),
                    pa.array([ids[d] for d in domains], type=pa.int32()),
                    ints,
                    floats,
                    *(table[name].combine_chunks() for name in ("part", "domain")),
                ],
                names=["impression_id", "user_id", "day", "label", "domain_id", "ints", "floats", "part", "domain"],
            )

    return rows.mapInArrow(pack, ENCODED)


def _arrange_rows(settings: Settings, rows: DataFrame, counts: dict[str, int]) -> DataFrame:
    """Rows of one domain together, in the order of a hash, so that each file is a random sample of its domain.

    Large domains are dealt over as many tasks as their rows (`counts`) fill files. The number of tasks is fixed
    and the order total, so that a split written again has the same rows in the same files.
    """
    files = {domain: max(1, math.ceil(n / settings.split.rows_per_file)) for domain, n in counts.items()}
    deal = F.create_map(*(F.lit(x) for pair in files.items() for x in pair))
    tasks = settings.spark.shuffle_partitions
    # Hashes of other seeds and bits than the order's, else a task's rows would all lie close in the order.
    share = F.pmod(F.shiftright("_h", 20), F.coalesce(deal[F.col("domain")], F.lit(1)))
    return (
        rows.withColumn("_h", F.xxhash64("impression_id"))
        .withColumn("_b", F.pmod(F.xxhash64("domain") + share, F.lit(tasks)))
        .repartition(tasks, "_b")
        .sortWithinPartitions("part", "domain", "_h", "impression_id")
        .drop("_h", "_b")
    )


if __name__ == "__main__":
    run_submitted_step("split")
