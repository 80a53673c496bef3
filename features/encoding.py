"""Fitting the numbers' encoders on the training days: scales, bucket bounds, base rates.

All of it comes out the same in whatever order Spark reads the rows: sums run over decimals, which add up
exactly, and quantiles are exact over a sample that the rows' own hashes choose.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
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
BUCKET = "__bucket"
"""What the names of bucket fields add to those of their numbers."""
_EXACT = "decimal(20, 6)"


def fit_layout(
    settings: Settings,
    train: DataFrame,
    domains: list[str],
    vocabulary_sizes: dict[str, int],
    ds: str,
    before: Layout | None = None,
) -> Layout:
    """The layout of encoded rows, with scales, bounds and base rates fitted on `train`.

    With a layout `before`, its numbers stay encoded as they are there, as far as they are made alike. One that did not
    vary there is fitted now.
    """
    sources, standard, buckets = _numbers(settings)
    known_scales, known_bounds = _known(before, sources)
    rates = {
        name: source
        for name, source in sources.items()
        if source.denominator and name not in known_scales.keys() | known_bounds.keys()
    }
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
    scales = known_scales | _scales(train, {name: sources[name] for name in standard if name not in known_scales})
    bounds = known_bounds | _bounds(
        train, {name: (sources[name], count) for name, count in buckets.items() if name not in known_bounds}
    )
    bucket_fields = [BucketField(name=f"{name}{BUCKET}", source=sources[name], bounds=bounds[name]) for name in buckets]
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
            if f.splitter is None
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


def _known(
    before: Layout | None, sources: dict[str, NumericSource]
) -> tuple[dict[str, tuple[float, float]], dict[str, list[float]]]:
    """The scales and the bounds that stay, by number; their `sources` take over the base rate of then."""
    scales: dict[str, tuple[float, float]] = {}
    bounds: dict[str, list[float]] = {}
    if before is None:
        return scales, bounds

    def is_alike(name: str, then: NumericSource) -> bool:
        return name in sources and sources[name].model_copy(update={"base": then.base}) == then

    for field in before.numeric:
        if field.std > 0 and is_alike(field.name, field.source):
            scales[field.name], sources[field.name] = (field.mean, field.std), field.source
    for bucket in before.buckets:
        name = bucket.name.removesuffix(BUCKET)
        if bucket.bounds and is_alike(name, bucket.source):
            bounds[name], sources[name] = bucket.bounds, bucket.source
    return scales, bounds


def _sequence_fields(settings: Settings) -> list[SequenceField]:
    fields = [
        SequenceField(
            name=f.name,
            length=f.length,
            sides=[IdField(name=f.name, column=flat(f.column), embedding=f.embedding or f.name)],
            separator=f.splitter,
        )
        for f in settings.of_kind(Categorical)
        if f.splitter is not None
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
