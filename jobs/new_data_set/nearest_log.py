"""Explain why no log looks like impressions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from star_ctr.jobs.new_data_set.click_logs import list_ids, shares_values
from star_ctr.jobs.new_data_set.column_words import ITEM, USER
from star_ctr.jobs.new_data_set.columns import names_clicks
from star_ctr.jobs.new_data_set.keys import ColumnChoice, find_key, find_label, find_time
from star_ctr.jobs.new_data_set.log_columns import LogColumns

_EXAMPLES = {"user": "user_id", "item": "item_id", "time": "time"}
"""Names of columns that `init` finds."""


def explain_missing_impressions(logs: Sequence[LogColumns]) -> str:
    """Return which log is most like impressions, what it lacks, and the remedy.

    Args:
        logs: All logs. None of them looks like impressions.

    Returns:
        One or two sentences.
    """
    keys = {log.sample.group.pattern: _find_keys(log) for log in logs}

    def rate(log: LogColumns) -> tuple[int, bool, bool, bool, int]:
        own = keys[log.sample.group.pattern]
        is_called_click = names_clicks(log.sample.group.pattern)
        has_label = find_label(log.columns).column is not None
        return len(own), has_label, not is_called_click, bool(_list_other_ids(log, own)), log.sample.group.size

    nearest = max(logs, key=rate, default=None)
    if nearest is None or not keys[nearest.sample.group.pattern]:
        return (
            "An impression log has a user, an item and a time, and either a column such as `click` or an id that a "
            "click log refers to. Rename its columns, or write the file by hand (docs/new-data-set.md)"
        )
    own = keys[nearest.sample.group.pattern]
    found = _join([f"{_add_article(key)} (`{choice.column}`)" for key, choice in own.items()])
    text = f"The nearest is {nearest.sample.group.pattern}: it has {found}, but "
    if missing := [key for key in _EXAMPLES if key not in own]:
        names = _join([f"`{_EXAMPLES[key]}`" for key in missing])
        return (
            f"{text}no column that looks like {_join([_add_article(key) for key in missing], 'or')}. Give the "
            f"{'column a name' if len(missing) == 1 else 'columns names'} such as {names}, or write the file by hand "
            "(docs/new-data-set.md)"
        )
    reason = _explain_missing_clicks(nearest, own, [log for log in logs if log is not nearest])
    return f"{text}no column such as `click`, and {reason}, or add a column `click` with 1 or 0"


def _find_keys(log: LogColumns) -> dict[str, ColumnChoice]:
    """Return the user, item and time of a log, as far as it has them."""
    found = {"user": find_key(log.columns, USER), "item": find_key(log.columns, ITEM), "time": find_time(log.columns)}
    return {key: choice for key, choice in found.items() if choice.column}


def _list_other_ids(log: LogColumns, keys: dict[str, ColumnChoice]) -> list[str]:
    """Return the columns with unique values that are no other key."""
    used = {choice.column for choice in keys.values()}
    return [column.name for column in list_ids(log) if column.name not in used]


def _explain_missing_clicks(log: LogColumns, keys: dict[str, ColumnChoice], others: Collection[LogColumns]) -> str:
    """Return why no log contains the clicks on the impressions of a log, and the remedy."""
    ids = _list_other_ids(log, keys)
    clicks = [o.sample.group.pattern for o in others if names_clicks(o.sample.group.pattern)]
    remedy = f"a column with the id of the impression to {clicks[0] if clicks else 'the log of clicks'}"
    if not ids:
        return f"no column with a unique id. Add one, and {remedy}"
    for name in ids:
        for other in others:
            for column in other.columns.values():
                refers, is_named, _, _ = shares_values(column, log.columns[name])
                # Whole numbers of different things are often equal.
                if not refers or not (is_named or column.kind == "text"):
                    continue
                reference = f"{other.sample.group.pattern} has values of its id column `{name}` in `{column.name}`"
                if find_time(other.columns).column is None:
                    return f"{reference}, but no time. Add the time of the click to it"
                return (
                    f"{reference}, but many of its rows have the same value, or are earlier than the impression. "
                    "Correct this log"
                )
    columns = _join([f"`{name}`" for name in ids[:3]], "or")
    return f"no other log has values of its id column{'s' if len(ids) > 1 else ''} {columns}. Add {remedy}"


def _join(texts: Sequence[str], word: str = "and") -> str:
    return f" {word} ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _add_article(noun: str) -> str:
    return f"{'an' if noun == 'item' else 'a'} {noun}"
