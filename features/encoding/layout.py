"""The layout of encoded rows, with scales, bucket bounds and base rates fitted on the training days."""

from __future__ import annotations

from pyspark.sql import DataFrame

from star_ctr.conf.contracts.column_names import (
    name_behaviour_column,
    name_bucket_table,
    name_count_column,
    name_gap_column,
    name_rate,
    name_side_column,
    name_since_column,
)
from star_ctr.conf.contracts.encoded_row import (
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
from star_ctr.conf.settings.features import Categorical, Numeric, Sequence, Statistic, flatten_column_name
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.fitting import compute_base_rates, fit_bounds, fit_scales


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
    sources, standard, buckets = _list_numbers(settings)
    known_scales, known_bounds = _keep_known(before, sources)
    rates = {
        name: source
        for name, source in sources.items()
        if source.denominator and name not in known_scales.keys() | known_bounds.keys()
    }
    if rates:
        for name, base in compute_base_rates(train, rates).items():
            sources[name] = sources[name].model_copy(update={"base": base})
    scales = known_scales | fit_scales(train, {name: sources[name] for name in standard if name not in known_scales})
    bounds = known_bounds | fit_bounds(
        train, {name: (sources[name], count) for name, count in buckets.items() if name not in known_bounds}
    )
    bucket_fields = [BucketField(name=name_bucket_table(n), source=sources[n], bounds=bounds[n]) for n in buckets]
    sizes = {name: FIRST_KNOWN + size for name, size in vocabulary_sizes.items()}
    sizes |= {field.name: FIRST_KNOWN + len(field.bounds) + 1 for field in bucket_fields}
    sequences = _make_sequence_fields(settings)
    used = {side.embedding for s in sequences for side in s.sides}
    sizes |= {GAP: GAP_BUCKETS} if GAP in used else {}
    sizes |= {BEHAVIOUR: FIRST_KNOWN + len(settings.history)} if BEHAVIOUR in used else {}
    return Layout(
        ds=ds,
        domains=domains,
        embeddings=dict(sorted(sizes.items())),
        categorical=[
            IdField(name=f.name, column=flatten_column_name(f.column), embedding=f.embedding or f.name)
            for f in settings.select_features(Categorical)
            if f.splitter is None
        ],
        buckets=bucket_fields,
        numeric=[
            NumericField(name=name, source=sources[name], mean=scales[name][0], std=scales[name][1])
            for name in standard
        ],
        sequences=sequences,
    )


def _list_numbers(settings: Settings) -> tuple[dict[str, NumericSource], list[str], dict[str, int]]:
    """Every number by name: how it is made, which are standardised, and which are cut into how many buckets."""
    sources: dict[str, NumericSource] = {}
    standard: list[str] = []
    buckets: dict[str, int] = {}
    for feature in settings.features:
        made: dict[str, NumericSource] = {}
        if isinstance(feature, Numeric):
            made[feature.name] = NumericSource(column=flatten_column_name(feature.column), log=feature.log)
        elif isinstance(feature, Statistic):
            for kind in feature.counts:
                made[name_count_column(feature.name, kind)] = NumericSource(
                    column=name_count_column(feature.name, kind), log=True
                )
            for kind, of in feature.rates.items():
                made[name_rate(feature.name, kind)] = NumericSource(
                    column=name_count_column(feature.name, kind),
                    denominator=name_count_column(feature.name, of),
                    prior=feature.prior,
                )
            for kind in feature.since:
                made[name_since_column(feature.name, kind)] = NumericSource(
                    column=name_since_column(feature.name, kind), log=True
                )
        if isinstance(feature, Numeric | Statistic):
            sources |= made
            standard += list(made) if "standard" in feature.encode else []
            buckets |= dict.fromkeys(made, feature.buckets) if "bucket" in feature.encode else {}
    return sources, standard, buckets


def _keep_known(
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
    then = {bucket.name: bucket for bucket in before.buckets}
    for name in list(sources):
        bucket = then.get(name_bucket_table(name))
        if bucket is not None and bucket.bounds and is_alike(name, bucket.source):
            bounds[name], sources[name] = bucket.bounds, bucket.source
    return scales, bounds


def _make_sequence_fields(settings: Settings) -> list[SequenceField]:
    fields = [
        SequenceField(
            name=f.name,
            length=f.length,
            sides=[IdField(name=f.name, column=flatten_column_name(f.column), embedding=f.embedding or f.name)],
            separator=f.splitter,
        )
        for f in settings.select_features(Categorical)
        if f.splitter is not None
    ]
    for f in settings.select_features(Sequence):
        sides = [
            IdField(name=flatten_column_name(c), column=name_side_column(f.name, c), embedding=e)
            for c, e in f.columns.items()
        ]
        sides += [IdField(name=GAP, column=name_gap_column(f.name), embedding=GAP)] if f.gap else []
        sides += (
            [IdField(name=BEHAVIOUR, column=name_behaviour_column(f.name), embedding=BEHAVIOUR)] if f.behaviour else []
        )
        fields.append(SequenceField(name=f.name, length=f.length, sides=sides))
    return fields
