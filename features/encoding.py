"""Fitting the encoders on the training days: vocabularies, scales, bucket bounds, base rates.

All of it comes out the same in whatever order Spark reads the rows: sums run over decimals, which add up
exactly, and quantiles are exact over a sample that the rows' own hashes choose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from star_ctr.conf.features import Categorical, Numeric, Sequence, Statistic, flat
from star_ctr.conf.layout import (
    BEHAVIOUR,
    FIRST_KNOWN,
    GAP,
    GAP_BUCKETS,
    BucketField,
    IdField,
    Layout,
    NumericField,
    NumericSource,
    SequenceField,
)
from star_ctr.conf.settings import Settings
from star_ctr.features.sequences import behaviour_column, gap_column, side_column
from star_ctr.features.statistics import count_column, since_column

QUANTILE_ROWS = 200_000
VOCABULARY_SCHEMA = "embedding string, value string, rows long"
_EXACT = "decimal(20, 6)"


def embedding_columns(settings: Settings) -> dict[str, list[tuple[str, str | None]]]:
    """For each embedding table, the features columns it holds the values of, each with its separator if it has one."""
    columns: dict[str, list[tuple[str, str | None]]] = {}
    for feature in settings.features:
        if isinstance(feature, Categorical):
            entry = (flat(feature.column), feature.separator)
            columns.setdefault(feature.embedding or feature.name, []).append(entry)
        elif isinstance(feature, Sequence):
            for column, embedding in feature.columns.items():
                columns.setdefault(embedding, []).append((side_column(feature.name, column), None))
    return columns


def fit_vocabularies(settings: Settings, train: DataFrame) -> DataFrame:
    """The values that training rows hold, by embedding table: embedding, value, id, rows.

    Ids count from FIRST_KNOWN, the most frequent value first; values seen fewer than `min_count` times are
    left out (they are encoded as unknown).
    """
    columns = embedding_columns(settings)
    needed = sorted({column for entries in columns.values() for column, _ in entries})

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        totals: Counter[tuple[str, str]] = Counter()
        for batch in batches:
            for embedding, entries in columns.items():
                for column, separator in entries:
                    counts = pc.value_counts(flattened(batch.column(column), separator))
                    values, numbers = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
                    for value, number in zip(values, numbers, strict=True):
                        if value is not None:
                            totals[embedding, value] += number
        if totals:
            names, values = zip(*totals, strict=True)
            yield pa.RecordBatch.from_arrays(
                [pa.array(names), pa.array(values), pa.array(list(totals.values()))],
                names=["embedding", "value", "rows"],
            )

    partial = train.select(*needed).mapInArrow(count, VOCABULARY_SCHEMA)
    total = partial.groupBy("embedding", "value").agg(F.sum("rows").alias("rows"))
    least = F.lit(1)
    for name, embedding in settings.model.embeddings.items():
        least = F.when(F.col("embedding") == name, F.lit(embedding.min_count)).otherwise(least)
    order = Window.partitionBy("embedding").orderBy(F.col("rows").desc(), "value")
    return total.where(F.col("rows") >= least).select(
        "embedding", "value", (F.row_number().over(order) + FIRST_KNOWN - 1).cast("int").alias("id"), "rows"
    )


def flattened(column: pa.Array, separator: str | None) -> pa.Array:
    """All values of a column: list columns opened, text split at its separator, else as it is."""
    if separator is not None:
        return pc.list_flatten(pc.split_pattern(column, separator))
    return pc.list_flatten(column) if pa.types.is_list(column.type) else column


def fit_layout(
    settings: Settings, train: DataFrame, domains: list[str], vocabulary_sizes: dict[str, int], ds: str
) -> Layout:
    """The layout of encoded rows, with scales, bounds and base rates fitted on `train`."""
    sources, standard, buckets = _numbers(settings)
    rates = {name: source for name, source in sources.items() if source.denominator}
    if rates:
        sums = [
            F.sum(F.col(c).cast(_EXACT)).alias(f"{name}/{c}")
            for name, s in rates.items()
            for c in (s.column, str(s.denominator))
        ]
        totals = train.agg(*sums).first()
        assert totals is not None
        for name, source in rates.items():
            events, of = totals[f"{name}/{source.column}"], totals[f"{name}/{source.denominator}"]
            base = float(events) / float(of) if of else 0.0
            sources[name] = source.model_copy(update={"base": base})
    scales = _scales(train, {name: sources[name] for name in standard})
    bounds = _bounds(train, {name: (sources[name], count) for name, count in buckets.items()})
    bucket_fields = [BucketField(name=f"{name}__bucket", source=sources[name], bounds=bounds[name]) for name in buckets]
    sizes = {name: FIRST_KNOWN + size for name, size in vocabulary_sizes.items()}
    sizes |= {field.name: FIRST_KNOWN + len(field.bounds) + 1 for field in bucket_fields}
    sequences = _sequence_fields(settings)
    used = {side.embedding for s in sequences for side in s.sides}
    sizes |= {GAP: GAP_BUCKETS} if GAP in used else {}
    sizes |= {BEHAVIOUR: FIRST_KNOWN + len(settings.history)} if BEHAVIOUR in used else {}
    return Layout(
        ds=ds,
        domains=domains,
        embeddings=dict(sorted(sizes.items())),
        categorical=[
            IdField(name=f.name, column=flat(f.column), embedding=f.embedding or f.name)
            for f in settings.of_kind(Categorical)
            if f.separator is None
        ],
        buckets=bucket_fields,
        numeric=[
            NumericField(name=name, source=sources[name], mean=scales[name][0], std=scales[name][1])
            for name in standard
        ],
        sequences=sequences,
    )


def _numbers(settings: Settings) -> tuple[dict[str, NumericSource], list[str], dict[str, int]]:
    """Every number by name: how it is made, which are standardised, and which are cut into how many buckets."""
    sources: dict[str, NumericSource] = {}
    standard: list[str] = []
    buckets: dict[str, int] = {}
    for feature in settings.features:
        made: dict[str, NumericSource] = {}
        if isinstance(feature, Numeric):
            made[feature.name] = NumericSource(column=flat(feature.column), log=feature.log)
        elif isinstance(feature, Statistic):
            for kind in feature.counts:
                made[count_column(feature.name, kind)] = NumericSource(
                    column=count_column(feature.name, kind), log=True
                )
            for kind, of in feature.rates.items():
                made[f"{feature.name}__rate_{kind}"] = NumericSource(
                    column=count_column(feature.name, kind),
                    denominator=count_column(feature.name, of),
                    prior=feature.prior,
                )
            for kind in feature.since:
                made[since_column(feature.name, kind)] = NumericSource(
                    column=since_column(feature.name, kind), log=True
                )
        if isinstance(feature, Numeric | Statistic):
            sources |= made
            standard += list(made) if "standard" in feature.encode else []
            buckets |= dict.fromkeys(made, feature.buckets) if "bucket" in feature.encode else {}
    return sources, standard, buckets


def _sequence_fields(settings: Settings) -> list[SequenceField]:
    fields = [
        SequenceField(
            name=f.name,
            length=f.length,
            sides=[IdField(name=f.name, column=flat(f.column), embedding=f.embedding or f.name)],
            separator=f.separator,
        )
        for f in settings.of_kind(Categorical)
        if f.separator is not None
    ]
    for f in settings.of_kind(Sequence):
        sides = [IdField(name=flat(c), column=side_column(f.name, c), embedding=e) for c, e in f.columns.items()]
        sides += [IdField(name=GAP, column=gap_column(f.name), embedding=GAP)] if f.gap else []
        sides += [IdField(name=BEHAVIOUR, column=behaviour_column(f.name), embedding=BEHAVIOUR)] if f.behaviour else []
        fields.append(SequenceField(name=f.name, length=f.length, sides=sides))
    return fields


def value(source: NumericSource) -> Column:
    """The number that a source makes of a features row, null where it is missing."""
    number = F.col(source.column)
    if source.denominator:
        number = (number + source.prior * source.base) / (F.col(source.denominator) + source.prior)
    number = F.when(F.isnan(number), F.lit(None)).otherwise(number)
    return F.log1p(F.greatest(number, F.lit(0.0))) if source.log else number


def _scales(train: DataFrame, sources: dict[str, NumericSource]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation by number; a number that does not vary has the deviation 0."""
    if not sources:
        return {}
    exact = {name: value(source).cast(_EXACT) for name, source in sources.items()}
    columns = []
    for name, number in exact.items():
        columns += [
            F.count(number).alias(f"{name}/n"),
            F.sum(number).alias(f"{name}/x"),
            F.sum(number * number).alias(f"{name}/xx"),
        ]
    totals = train.agg(*columns).first()
    assert totals is not None
    scales = {}
    for name in sources:
        n = totals[f"{name}/n"]
        mean = float(totals[f"{name}/x"]) / n if n else 0.0
        variance = float(totals[f"{name}/xx"]) / n - mean * mean if n else 0.0
        scales[name] = (mean, variance**0.5 if variance > 1e-9 * mean * mean else 0.0)
    return scales


def _bounds(train: DataFrame, sources: dict[str, tuple[NumericSource, int]]) -> dict[str, list[float]]:
    """Bucket bounds by number: quantiles, each distinct one once."""
    if not sources:
        return {}
    rows = train.count()
    share = min(1.0, QUANTILE_ROWS / max(rows, 1))
    sample = train.where(F.pmod(F.xxhash64("impression_id"), F.lit(1_000_000)) < int(share * 1_000_000))
    columns = [
        F.percentile(value(source), [k / count for k in range(1, count)]).alias(name)
        for name, (source, count) in sources.items()
    ]
    found = sample.agg(*columns).first()
    assert found is not None
    return {name: sorted(set(found[name] or [])) for name in sources}
