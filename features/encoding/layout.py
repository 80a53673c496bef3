"""Build the layout of encoded rows, with scales, bucket bounds and base rates fitted on the training days."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame

from star_ctr.conf.contracts.column_names import (
    name_behaviour_column,
    name_bucket_table,
    name_count_column,
    name_gap_column,
    name_missing_flag,
    name_rate,
    name_side_column,
    name_since_column,
)
from star_ctr.conf.contracts.encoded_row import (
    BEHAVIOUR_TABLE,
    FIRST_KNOWN,
    GAP_BUCKETS,
    GAP_TABLE,
    BucketField,
    IdField,
    Layout,
    NumericField,
    NumericSource,
    SequenceField,
    VectorField,
)
from star_ctr.conf.settings.features import Categorical, Numeric, Sequence, Statistic, Vector
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.fitting import compute_base_rates, fit_bounds, fit_scales
from star_ctr.features.encoding.vector_fitting import VectorColumn, fit_vectors
from star_ctr.features.encoding.vocabularies import list_embedding_columns, list_hashed_tables


def fit_layout(
    settings: Settings,
    train: DataFrame,
    domains: list[str],
    vocabulary_sizes: dict[str, int],
    ds: str,
    previous: Layout | None = None,
) -> Layout:
    """Fit scales, bucket bounds and base rates, and build the layout of encoded rows.

    A number keeps its encoding (base rate, scale, bounds) from the previous layout if it is computed in the same way.
    All other numbers are fitted, including those that were constant in the training rows of the previous layout.

    Args:
        settings: The settings of the data set.
        train: The rows of `features` on the training days.
        domains: The domains that the layout contains, in the order of their ids.
        vocabulary_sizes: The number of known values of each embedding table with a vocabulary, by name.
        ds: The night that the layout belongs to.
        previous: The layout whose encoding of numbers is kept; None to fit all numbers.

    Returns:
        The layout.
    """
    sources, standard, buckets = _list_numbers(settings)
    known_scales, known_bounds = _keep_encodings(previous, sources)
    rates = {
        name: source
        for name, source in sources.items()
        if source.denominator and name not in known_scales.keys() | known_bounds.keys()
    }
    if rates:
        for name, base in compute_base_rates(train, rates).items():
            sources[name] = sources[name].model_copy(update={"base": base})
    vectors = _fit_vector_fields(settings, train, previous, known_scales)
    scales = known_scales | {name_missing_flag(field.name): missing for field, missing in vectors}
    scales |= fit_scales(train, {name: sources[name] for name in standard if name not in scales})
    bounds = known_bounds | fit_bounds(
        train, {name: (sources[name], count) for name, count in buckets.items() if name not in known_bounds}
    )
    bucket_fields = [BucketField(name=name_bucket_table(n), source=sources[n], bounds=bounds[n]) for n in buckets]
    hashed = list_hashed_tables(settings)
    # A table whose columns are empty in the training rows has no known values.
    rows = {**dict.fromkeys(list_embedding_columns(settings), 0), **vocabulary_sizes, **hashed}
    sizes = {name: FIRST_KNOWN + size for name, size in rows.items()}
    sizes |= {field.name: FIRST_KNOWN + len(field.bounds) + 1 for field in bucket_fields}
    sequences = _make_sequence_fields(settings)
    used = {side.embedding for s in sequences for side in s.sides}
    sizes |= {GAP_TABLE: GAP_BUCKETS} if GAP_TABLE in used else {}
    sizes |= {BEHAVIOUR_TABLE: FIRST_KNOWN + len(settings.history)} if BEHAVIOUR_TABLE in used else {}
    return Layout(
        ds=ds,
        domains=domains,
        embeddings=dict(sorted(sizes.items())),
        categorical=[_make_value_field(f) for f in settings.select_features(Categorical) if f.splitter is None],
        buckets=bucket_fields,
        numeric=[
            NumericField(name=name, source=sources[name], mean=scales[name][0], std=scales[name][1])
            for name in standard
        ],
        sequences=sequences,
        hashed=sorted(hashed),
        vectors=[field for field, _ in vectors],
        has_weights=settings.logs.impressions.weight is not None,
        outcomes=settings.label.outcomes,
    )


def _list_numbers(settings: Settings) -> tuple[dict[str, NumericSource], list[str], dict[str, int]]:
    """List the numbers that the features declare.

    Returns:
        The source of each number by name, the names of the standardized numbers, and the number of buckets of each
        bucketed number by name.
    """
    sources: dict[str, NumericSource] = {}
    standard: list[str] = []
    buckets: dict[str, int] = {}
    for feature in settings.features:
        declared: dict[str, NumericSource] = {}
        if isinstance(feature, Numeric):
            declared[feature.name] = NumericSource(column=feature.column.flat, log=feature.log)
        elif isinstance(feature, Statistic):
            for kind in feature.counts:
                declared[name_count_column(feature.name, kind)] = NumericSource(
                    column=name_count_column(feature.name, kind), log=True
                )
            for kind, denominator in feature.rates.items():
                declared[name_rate(feature.name, kind)] = NumericSource(
                    column=name_count_column(feature.name, kind),
                    denominator=name_count_column(feature.name, denominator),
                    prior=feature.prior,
                )
            for kind in feature.since:
                declared[name_since_column(feature.name, kind)] = NumericSource(
                    column=name_since_column(feature.name, kind), log=True
                )
        if isinstance(feature, Numeric | Statistic):
            sources |= declared
            standard += list(declared) if "standard" in feature.encode else []
            buckets |= dict.fromkeys(declared, feature.buckets) if "bucket" in feature.encode else {}
        if isinstance(feature, Vector) or (isinstance(feature, Numeric) and "missing" in feature.encode):
            flag = name_missing_flag(feature.name)
            sources[flag] = NumericSource(column=feature.column.flat, missing=True)
            standard.append(flag)
    return sources, standard, buckets


def _keep_encodings(
    previous: Layout | None, sources: dict[str, NumericSource]
) -> tuple[dict[str, tuple[float, float]], dict[str, list[float]]]:
    """Return the scales and the bucket bounds to keep from the previous layout, by number.

    Replaces the `sources` of these numbers by those of the previous layout, which contain the base rates to keep.
    """
    scales: dict[str, tuple[float, float]] = {}
    bounds: dict[str, list[float]] = {}
    if previous is None:
        return scales, bounds

    def has_same_source(name: str, source: NumericSource) -> bool:
        return name in sources and sources[name].model_copy(update={"base": source.base}) == source

    for field in previous.numeric:
        if field.std > 0 and has_same_source(field.name, field.source):
            scales[field.name], sources[field.name] = (field.mean, field.std), field.source
    previous_buckets = {bucket.name: bucket for bucket in previous.buckets}
    for name in list(sources):
        bucket = previous_buckets.get(name_bucket_table(name))
        if bucket is not None and bucket.bounds and has_same_source(name, bucket.source):
            bounds[name], sources[name] = bucket.bounds, bucket.source
    return scales, bounds


def _fit_vector_fields(
    settings: Settings, train: DataFrame, previous: Layout | None, known_scales: Mapping[str, tuple[float, float]]
) -> list[tuple[VectorField, tuple[float, float]]]:
    """Make the fields of vectors, each with the scale of its missing-value flag. Known scales are kept."""
    features = settings.select_features(Vector)
    earlier = {v.name: v for v in previous.vectors if v.scale > 0} if previous else {}
    known = {f.name: earlier[f.name] for f in features if f.name in earlier and _has_same_vectors(f, earlier[f.name])}
    fits = fit_vectors(
        train,
        {
            f.name: VectorColumn(f.column.flat, f.length)
            for f in features
            if f.name not in known or name_missing_flag(f.name) not in known_scales
        },
    )
    found = []
    for feature in features:
        name = feature.name
        mean, scale = (known[name].mean, known[name].scale) if name in known else fits[name][:2]
        field = VectorField(
            name=name, column=feature.column.flat, length=feature.length, dim=feature.width, mean=mean, scale=scale
        )
        found.append((field, known_scales.get(name_missing_flag(name)) or fits[name].missing))
    return found


def _has_same_vectors(feature: Vector, field: VectorField) -> bool:
    return (feature.column.flat, feature.length) == (field.column, field.length)


def _make_value_field(feature: Categorical) -> IdField:
    """Make the id field of a categorical feature."""
    columns = [column.flat for column in feature.columns]
    return IdField(
        name=feature.name,
        column=columns[0] if len(columns) == 1 else columns,
        embedding=feature.embedding or feature.name,
    )


def _make_sequence_fields(settings: Settings) -> list[SequenceField]:
    """Make the fields of categorical features with several values, then those of sequences of events."""
    fields = [
        SequenceField(
            name=f.name,
            length=f.length,
            sides=[_make_value_field(f)],
            separator=f.splitter,
        )
        for f in settings.select_features(Categorical)
        if f.splitter is not None
    ]
    for f in settings.select_features(Sequence):
        sides = [IdField(name=c.flat, column=name_side_column(f.name, c), embedding=e) for c, e in f.columns.items()]
        sides += [IdField(name=GAP_TABLE, column=name_gap_column(f.name), embedding=GAP_TABLE)] if f.gap else []
        sides += (
            [IdField(name=BEHAVIOUR_TABLE, column=name_behaviour_column(f.name), embedding=BEHAVIOUR_TABLE)]
            if f.behaviour
            else []
        )
        fields.append(SequenceField(name=f.name, length=f.length, sides=sides))
    return fields
