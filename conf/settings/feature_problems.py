"""Problems of features, and of the columns they use, that depend on other sections of the settings."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.expressions import is_same_or_nested, reads_any
from star_ctr.conf.settings.features import (
    AnyFeature,
    Categorical,
    Numeric,
    Sequence,
    Statistic,
    Vector,
    list_read_columns,
)
from star_ctr.conf.settings.label import LabelColumn

if TYPE_CHECKING:
    from star_ctr.conf.settings.root import Settings


def find_feature_problems(settings: Settings) -> list[str]:
    """Find features that read undeclared columns or kinds of history, or columns that contain the label.

    Args:
        settings: The settings of a data set.

    Returns:
        A message for each problem, which begins with the settings key.
    """
    problems = _find_role_problems(settings)
    seen: set[str] = set()
    for feature in settings.features:
        where = f"features.{feature.name}"
        if feature.name in seen:
            problems.append(f"{where}: two features have this name; rename one of them")
        seen.add(feature.name)
        for column in list_read_columns(feature):
            problems += [f"{where}: {problem}" for problem in _find_column_problems(settings, feature, column)]
        kinds: list[str] = []
        if isinstance(feature, Sequence):
            kinds = feature.of
        elif isinstance(feature, Statistic):
            kinds = [*feature.list_kinds(), *feature.since]
        problems += [
            f"{where}: `{kind}` is not declared in `history`{suggest_nearest(kind, settings.history)}"
            for kind in kinds
            if kind not in settings.history
        ]
        numerators_only = {name for name, kind in settings.history.items() if kind.less}
        if isinstance(feature, Statistic):
            kinds = [*feature.counts, *feature.since, *feature.rates.values()]
        problems += [
            f"{where}: `{kind}` has `less`, so it can only be the numerator of one of the `rates`"
            for kind in kinds
            if kind in numerators_only
        ]
    return problems


def find_embedding_problems(settings: Settings) -> list[str]:
    """Find settings of embedding tables that have no effect, or would drop values of training rows.

    Args:
        settings: The settings of a data set.

    Returns:
        A message for each problem, which begins with the settings key.
    """
    used: set[str] = set()
    for feature in settings.features:
        if isinstance(feature, Categorical):
            used.add(feature.embedding or feature.name)
        elif isinstance(feature, Sequence):
            used |= set(feature.columns.values())
    problems = [
        f"model.embeddings.{name}: no categorical feature or sequence uses this embedding{suggest_nearest(name, used)}"
        for name, table in settings.model.embeddings.items()
        if (table.encode == "hash" or table.expire_days is not None) and name not in used
    ]
    for name, table in settings.model.embeddings.items():
        where = f"model.embeddings.{name}.expire_days"
        if table.expire_days is not None and settings.split.vocabulary != "grown":
            problems.append(
                f"{where}: vocabularies that are fitted every night hold no older values; set split.vocabulary to "
                "grown, or remove this key"
            )
        elif table.expire_days is not None and table.expire_days < settings.window.days:
            problems.append(
                f"{where}: {table.expire_days} is less than window.days ({settings.window.days}), so values of "
                f"training rows would be dropped; set it to at least {settings.window.days}"
            )
    return problems


def find_weight_problems(settings: Settings) -> list[str]:
    """Return a message for each other role of the weight's column, because the table renames columns with a role."""
    log = settings.logs.impressions
    roles = {f"logs.impressions.{key}": column for key, column in _list_roles(settings).items()}
    roles |= {"logs.impressions.id": log.id} if log.id else {}
    roles |= {"label.column": settings.label.column} if isinstance(settings.label, LabelColumn) else {}
    return [
        f"logs.impressions.weight: `{log.weight}` is also {key}; copy it under another name in "
        "logs.impressions.columns, and use the copy"
        for key, column in roles.items()
        if column == log.weight
    ]


def _list_roles(settings: Settings) -> dict[str, str]:
    """Return the columns of the impression log that hold keys, domains and times, by settings key."""
    log = settings.logs.impressions
    roles = {"user": log.user, "item": log.item, "domain": log.domain, "time.column": log.time.column}
    return roles | ({"day.column": log.day.column} if log.day else {})


def _find_role_problems(settings: Settings) -> list[str]:
    """Find keys, domains and times that are outcomes, or are computed from them, and so carry the label."""
    outcomes = settings.get_outcomes()
    roles = {key: column for key, column in _list_roles(settings).items() if column != settings.logs.impressions.weight}
    problems = [
        f"logs.impressions.{key}: `{column}` is an outcome, or computed from one, so it may contain the label; choose "
        "a column that is known before the impression"
        for key, column in roles.items()
        if any(is_same_or_nested(column, outcome) for outcome in outcomes)
    ]
    expressions = _list_expressions(settings, _list_outcomes_and_label(settings))
    return problems + [
        f"logs.impressions.{key}: {_explain_label_column(column)}"
        for key, column in roles.items()
        # A label may be computed from the time, such as that of a click after the impression.
        if key in ("user", "item", "domain") and any(reads_any(text, [column]) for text in expressions)
    ]


def _list_outcomes_and_label(settings: Settings) -> set[str]:
    label = {settings.label.column} if isinstance(settings.label, LabelColumn) else set()
    return {*settings.logs.impressions.outcomes, *label}


def _list_expressions(settings: Settings, wanted: Collection[str]) -> list[str]:
    """Return the expressions that compute some columns of the impression log."""
    sources = settings.logs.impressions.list_sources().values()
    return [
        text
        for source in sources
        for name, text in source.columns.items()
        if any(is_same_or_nested(name, outcome) for outcome in wanted)
    ]


def _explain_label_column(column: object) -> str:
    return (
        f"`{column}` is used to compute the label or an outcome, so it may contain the label; if its value is known "
        "before the impression, copy it under another name in logs.impressions.columns, and use the copy"
    )


def _find_column_problems(settings: Settings, feature: AnyFeature, column: ColumnRef) -> list[str]:
    weight = settings.logs.impressions.weight if column.table == "impressions" else None
    declared = _list_outcomes_and_label(settings)
    if weight and is_same_or_nested(column.column, weight) and weight not in declared:
        return [
            f"`{column}` is the weight (logs.impressions.weight), which may depend on the label, so it cannot be a "
            "feature; if its value is known before the impression, copy it under two names in "
            "logs.impressions.columns, and use one for the weight and the other for the feature"
        ]
    outcomes = settings.get_outcomes() if column.table == "impressions" else ()
    if any(is_same_or_nested(column.column, outcome) for outcome in outcomes):
        return [
            f"`{column}` is declared an outcome (it happens after the impression), so it cannot be a feature; "
            "use a `statistic` of it over earlier impressions instead"
        ]
    if column.table == "impressions":
        expressions = _list_expressions(settings, declared)
        if any(reads_any(text, [column.column]) for text in expressions):
            return [_explain_label_column(column)]
        if weight and any(reads_any(text, [column.column]) for text in _list_expressions(settings, [weight])):
            return [
                f"`{column}` is used to compute the weight, which may depend on the label; if its value is known "
                "before the impression, copy it under another name in logs.impressions.columns, and use the copy"
            ]
    if column.table in ("users", "items") and getattr(settings.logs, column.table) is None:
        return [f"`{column}` is a column of `logs.{column.table}`, which is not declared"]
    if isinstance(feature, Categorical):
        numeric = next((f.name for f in settings.select_features(Numeric) if f.column == column), None)
        if numeric:
            return [
                f"`{column}` is read as a number, because features.{numeric} is numeric; copy the column under another "
                "name in `columns` of its log, and use the copy"
            ]
    vector = next((f.name for f in settings.select_features(Vector) if f.column == column), feature.name)
    if vector != feature.name:
        return [
            f"`{column}` is read as vectors by features.{vector}; copy the column under another name in `columns` of "
            "its log, and use the copy"
        ]
    if isinstance(feature, Vector):
        return _find_vector_problems(settings, feature)
    if isinstance(feature, Sequence) and column.table == "users":
        return [f"`{column}`: user columns are the same for all events; use them in a feature that is not a sequence"]
    return []


def _find_vector_problems(settings: Settings, feature: Vector) -> list[str]:
    """Find settings of a log with which a column of vectors cannot be read."""
    name, column = str(feature.column.table), feature.column.column
    log = settings.logs.get_declared()[name]
    if (kind := log.types.get(column)) in ("double", "long"):
        return [f"`{feature.column}` is a {kind} (logs.{name}.types.{column}); remove it there"]
    if kind == "string":
        return []  # ingest does not rewrite decimal commas
    commas = any(s.decimal == "," and s.format in ("csv", "json") for s in log.list_sources().values())
    if commas and "," in feature.separator:
        return [f"the separator `{feature.separator}` is also the decimal comma (logs.{name}.decimal); set another one"]
    return []
