"""Prepare the raw rows of a source: computed columns, the condition `where`, and lists of displayed items.

Rows that `where` leaves out are marked and not dropped, so that they can be counted. The same holds for rows whose
lists cannot be exploded.
"""

from __future__ import annotations

from typing import Any

from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, StringType

from star_ctr.conf.errors import DataError, suggest_nearest
from star_ctr.conf.settings.logs import ImpressionLog
from star_ctr.conf.settings.sources import Explode, Log
from star_ctr.features.cleaning.log_columns import (
    CORRUPT,
    EXCLUDED,
    INTERNAL,
    ORIGINAL,
    PROBLEM,
    get_column,
)
from star_ctr.features.cleaning.raw_rows import to_list
from star_ctr.features.cleaning.text import check_key, drop_null_values, to_text

_ELEMENT = "_star_ctr_element"
_SAVED = "_star_ctr_saved"


def prepare_rows(log: Log, rows: DataFrame, key: str) -> DataFrame:
    """Add the computed columns of a source, mark the rows that `where` leaves out, and explode lists.

    Args:
        log: A log with one source.
        rows: The raw rows of the source.
        key: The settings key of the log, for messages.

    Returns:
        The rows; with `where`, the column EXCLUDED is true for rows that are left out; with `explode`, one row per
        displayed item, and the columns PROBLEM and ORIGINAL (null, or why the lists of a row cannot be exploded, and
        the row as JSON).

    Raises:
        DataError: An expression is invalid, is not computed from single rows, or has the wrong type; or a column to
            explode is missing or has no lists.
    """
    if log.columns or log.where:
        rows = _evaluate(log, rows, key)
    return _explode(log, log.explode, rows, f"{key}.explode") if log.explode else rows


def _evaluate(log: Log, rows: DataFrame, key: str) -> DataFrame:
    """Add the computed columns, and mark the rows that `where` leaves out."""
    # Expressions see null instead of null markers. Afterwards, other columns have their original values again, so that
    # the quarantine keeps them.
    texts = [f.name for f in rows.schema.fields if isinstance(f.dataType, StringType) and f.name not in INTERNAL]
    saved = {f"{_SAVED}{k}": get_column(name) for k, name in enumerate(texts)}
    blanked = {name: drop_null_values(log, get_column(name)) for name in texts}
    rows = rows.withColumns(saved).withColumns(blanked) if texts else rows
    if log.columns:
        computed = {name: _compute(rows, text, f"{key}.columns.{name}") for name, text in log.columns.items()}
        rows = rows.withColumns(computed)
    if log.where:
        condition = _compute(rows, log.where, f"{key}.where")
        if not isinstance(rows.select(condition).schema[0].dataType, BooleanType):
            raise DataError(f"{key}.where: `{log.where}` is not a condition; write one, such as is_bot = 'false'")
        is_readable = F.col(CORRUPT).isNull() if CORRUPT in rows.columns else F.lit(True)
        rows = rows.withColumn(EXCLUDED, is_readable & ~F.coalesce(condition, F.lit(False)))
    replaced = {name.lower() for name in log.columns}
    restored = {name: F.col(f"{_SAVED}{k}") for k, name in enumerate(texts) if name.lower() not in replaced}
    return rows.withColumns(restored).drop(*saved) if texts else rows


def _compute(rows: DataFrame, text: str, key: str) -> Column:
    """Return an SQL expression as a column that is null in unreadable rows; raises `DataError` if it is not allowed."""
    try:
        found = rows.select(F.expr(text))
    except (AnalysisException, ParseException) as error:
        raise DataError(f"{key}: {_describe(error, rows)}") from None
    plan: Any = found._jdf.queryExecution().analyzed()
    if (
        plan.getClass().getSimpleName() != "Project"
        or len(found.columns) != 1
        or not plan.child().equals(rows._jdf.queryExecution().analyzed())
        or not plan.subqueriesAll().isEmpty()
    ):
        raise DataError(
            f"{key}: `{text}` must be computed from one row; it cannot contain aggregates, window functions, explode "
            "or subqueries"
        )
    if not plan.projectList().head().deterministic():
        raise DataError(
            f"{key}: `{text}` gives a different result each time, so a night could not be reproduced; use only columns "
            "of the log"
        )
    return F.when(F.col(CORRUPT).isNull(), F.expr(text)) if CORRUPT in rows.columns else F.expr(text)


def _describe(error: Exception, rows: DataFrame) -> str:
    """Return Spark's message in one line, or a suggestion for an unknown column."""
    if isinstance(error, PySparkException) and (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
        wanted = (error.getMessageParameters() or {}).get("objectName", "").replace("`", "")
        names = [name for name in rows.columns if name not in INTERNAL and not name.startswith(_SAVED)]
        return f"no column `{wanted}`{suggest_nearest(wanted, names)} (existing columns: {', '.join(names)})"
    line = str(error).splitlines()[0]
    return line.partition("] ")[2].partition(" SQLSTATE")[0] or line


def _explode(log: Log, explode: Explode, rows: DataFrame, key: str) -> DataFrame:
    """Return one row per displayed item, and one row with a PROBLEM for lists that cannot be exploded."""
    if explode.position in rows.columns:
        raise DataError(f"{key}.position: the log has a column `{explode.position}`; choose another name")
    original = F.to_json(F.struct(*(get_column(c) for c in rows.columns if c not in INTERNAL)))
    items = _get_list(log, rows, explode.items, explode, f"{key}.items")
    others = {name: _get_list(log, rows, name, explode, f"{key}.parallel") for name in explode.parallel}
    clicked = _get_clicked(log, rows, explode, f"{key}.clicked") if explode.clicked else None
    names = ", ".join([explode.items, *explode.parallel])
    problem = F.when(F.coalesce(F.size(items), F.lit(0)) <= 0, F.lit(f"{explode.items}: no items"))
    for values in others.values():
        is_same = F.coalesce(F.size(values), F.lit(-1)) == F.size(items)
        problem = F.coalesce(problem, F.when(~is_same, F.lit(f"{names}: lists of different lengths")))
    row_id = log.id if isinstance(log, ImpressionLog) and log.id in rows.columns else None
    if row_id:
        kind, verbatim = rows.schema[row_id].dataType, log.types.get(row_id) == "string"
        id_text = to_text(log, get_column(row_id), kind, verbatim)
        problem = F.coalesce(check_key(log, id_text, get_column(row_id), kind, row_id, verbatim), problem)
    if CORRUPT in rows.columns:
        problem = F.when(F.col(CORRUPT).isNull(), problem)

    # Compare text, because the lists may have different types.
    item_texts = to_text(log, items, rows.select(items).schema[0].dataType)

    def make_element(item: Column, index: Column) -> Column:
        columns = [item.alias("item"), (index + 1).alias("position")]
        if clicked is not None:
            text = F.get(item_texts, index)
            # Of an item that is displayed twice, the first one counts as clicked.
            is_clicked = F.array_contains(clicked, text) & (F.array_position(item_texts, text) == index + 1)
            columns.append(F.coalesce(is_clicked, F.lit(False)).cast("int").alias("clicked"))
        return F.struct(
            *columns,
            *(F.get(values, index).alias(f"other{k}") for k, values in enumerate(others.values())),
            F.lit(None).cast("string").alias("problem"),
        )

    shown = F.transform(items, make_element)
    nothing = F.lit(None)
    fields = rows.select(shown.alias(_ELEMENT)).schema[_ELEMENT].dataType.elementType.fields  # type: ignore[attr-defined]

    def make_rejected(reason: Column) -> Column:
        empty = [nothing.cast(f.dataType).alias(f.name) for f in fields if f.name != "problem"]
        return F.array(F.struct(*empty, reason.alias("problem")))

    elements = F.when(problem.isNotNull(), make_rejected(problem)).otherwise(shown)
    if clicked is not None:
        # A click on an item that was not displayed must not get lost.
        strays = F.exists(clicked, lambda c: ~F.coalesce(F.array_contains(item_texts, c), F.lit(False)))
        lost = make_rejected(F.lit(f"{explode.clicked}: an item that is not in {explode.items}"))
        has_lost = problem.isNull() & F.coalesce(strays, F.lit(False))
        elements = F.when(has_lost, F.concat(shown, lost)).otherwise(elements)
    if EXCLUDED in rows.columns:
        elements = F.when(F.col(EXCLUDED), make_rejected(nothing.cast("string"))).otherwise(elements)
    if CORRUPT in rows.columns:
        elements = F.when(F.col(CORRUPT).isNotNull(), make_rejected(nothing.cast("string"))).otherwise(elements)
    found = rows.withColumn(ORIGINAL, original).withColumn(_ELEMENT, F.explode(elements))
    element = F.col(_ELEMENT)
    changed = {explode.items: element["item"], explode.position: element["position"], PROBLEM: element["problem"]}
    changed |= {explode.clicked: element["clicked"]} if explode.clicked else {}
    changed |= {name: element[f"other{k}"] for k, name in enumerate(explode.parallel)}
    changed[ORIGINAL] = F.when(element["problem"].isNotNull(), F.col(ORIGINAL))
    if row_id:
        position = element["position"].cast("string")
        changed[row_id] = F.concat(id_text, F.lit("#"), F.coalesce(position, F.lit("-")))
    return found.withColumns(changed).drop(_ELEMENT)


def _get_clicked(log: Log, rows: DataFrame, explode: Explode, key: str) -> Column:
    """Return the column of clicked items as lists of text without null; a single item becomes a list."""
    column = str(explode.clicked)
    if column in rows.columns and not isinstance(rows.schema[column].dataType, ArrayType) and not explode.separator:
        values = to_list(get_column(column), rows.schema[column].dataType)
    else:
        values = _get_list(log, rows, column, explode, key)
    texts = to_text(log, values, rows.select(values).schema[0].dataType)
    return F.coalesce(F.filter(texts, lambda text: text.isNotNull() & (text != "")), F.array().cast("array<string>"))


def _get_list(log: Log, rows: DataFrame, column: str, explode: Explode, key: str) -> Column:
    """Return a column of lists; text is split at `separator`, and white space around the values is removed."""
    if column not in rows.columns:
        raise DataError(f"{key}: no column `{column}`{suggest_nearest(column, rows.columns)}")
    kind, value = rows.schema[column].dataType, get_column(column)
    if isinstance(kind, ArrayType):
        return value
    if isinstance(kind, StringType) and log.format == "json" and not explode.separator:
        return F.when(F.trim(value) != "", to_list(value, kind))
    if isinstance(kind, StringType) and explode.separator:
        parts = F.split(value, F.lit(rf"\Q{explode.separator}\E"))
        return F.when(F.trim(value) != "", F.transform(parts, lambda part: F.trim(part)))
    raise DataError(
        f"{key}: `{column}` is a {kind.simpleString()} and not a list; set `separator`, or convert it in `columns`"
    )
