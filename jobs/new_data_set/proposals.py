"""Propose the features of a new data set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from star_ctr.conf.settings.checks import CheckSettings
from star_ctr.jobs.new_data_set.column_words import CATEGORY, POPULARITY, matches_words
from star_ctr.jobs.new_data_set.columns import Column
from star_ctr.jobs.new_data_set.event_logs import list_events
from star_ctr.jobs.new_data_set.roles import Roles

CHECK = "check: "
"""Begins the comment of a proposal that the user should check."""
WINDOW_HOURS = 24
"""An impression counts as clicked, or has an outcome, if the click or event follows within these hours."""
_MAX_UNPARSABLE = CheckSettings().max_unparsable
_MAX_CATEGORIES = 50
"""Whole numbers with at most this number of distinct values are categories."""
_MAX_SHARE = 0.5
"""A column of text with more distinct values than this share of its rows is not a category."""
_MAX_BEHAVIOURS = 6
_NOUNS = {"time": "time", "day": "date", "struct": "structure"}
_CATEGORY_VALUES = range(3, 2_000)
"""The number of distinct values of an attribute of items for statistics by user and attribute."""
_MAX_STATISTICS, _MAX_SIDES = 3, 2
"""Maximum numbers of item attributes that statistics and the sequence use."""


class Proposal(NamedTuple):
    """A feature.

    Attributes:
        settings: Its entry in `features`.
        group: The heading under which it is listed.
        comment: Why it is proposed; empty if its settings say enough.
    """

    settings: dict[str, Any]
    group: str
    comment: str = ""


class Proposals(NamedTuple):
    """The history and the features of a data set.

    Attributes:
        history: The section `history`.
        features: The features.
        left_out: Columns that are not used, with the reason.
        types: The `types` of the columns of each log.
        outcomes: Further outcomes from the log of events: the value of `label.also`.
    """

    history: dict[str, dict[str, Any]]
    features: list[Proposal]
    left_out: dict[str, str]
    types: dict[str, dict[str, str]]
    outcomes: dict[str, dict[str, Any]]


def propose_features(roles: Roles) -> Proposals:
    """Propose the history and the features of a data set.

    Args:
        roles: What the logs are.

    Returns:
        The proposals.
    """
    names = _Names()
    features = [Proposal({"name": names.take("item"), "kind": "categorical", "column": "item_id"}, "items")]
    left_out: dict[str, str] = {}
    types: dict[str, dict[str, str]] = {}
    categories = list[Column]()
    for log, columns in _list_attributes(roles).items():
        is_dated = log not in roles.attributes or roles.attributes[log].is_daily
        has_commas = any(column.decimal == "," for column in columns)
        for column in columns:
            settings, reason = _propose_column(log, column, is_dated)
            if settings is None:
                left_out[f"{log}.{column.name}"] = reason
                continue
            features.append(Proposal({"name": names.take(column.name), **settings}, log, reason))
            if settings["kind"] == "numeric":
                types.setdefault(log, {})[column.name] = "double"
            elif column.vector and column.vector.separator and column.decimal == "." and has_commas:
                types.setdefault(log, {})[column.name] = "string"  # the numbers of vectors have decimal points
            elif log == "items" and "multiple" not in settings and column.distinct in _CATEGORY_VALUES:
                categories.append(column)
    features.append(Proposal({"name": names.take("hour"), "kind": "categorical", "column": "hour"}, "impressions"))
    history, kinds = _propose_history(roles)
    categories.sort(key=lambda c: (not set(c.words) & CATEGORY, -c.distinct))
    # A coarse attribute tells more about a user with few events, and a fine one about the item. Use both kinds.
    features += _propose_statistics(names, kinds, [f"items.{c.name}" for c in categories[:_MAX_STATISTICS]])
    # A sequence needs single values.
    single = [f"items.{c.name}" for c in categories if not c.separator][:_MAX_SIDES]
    features.append(_propose_sequence(roles, names, kinds, single))
    return Proposals(history, features, left_out, types, _propose_outcomes(roles))


class _Names:
    """Names of features, each of them once."""

    def __init__(self) -> None:
        self.taken = {"gap", "behaviour"}

    def take(self, wanted: str) -> str:
        """Return a valid name that was not taken before."""
        name = re.sub(r"\W+|_+", "_", wanted.lower(), flags=re.ASCII).strip("_")
        name = name if re.match(r"[a-z]", name) else f"c_{name}".rstrip("_")
        found, number = name, 2
        while found in self.taken:
            found, number = f"{name}{number}", number + 1
        self.taken.add(found)
        return found


def _list_attributes(roles: Roles) -> dict[str, list[Column]]:
    """Return the columns of each log that may be features."""
    used = {
        choice.column
        for choice in (roles.user, roles.item, roles.domain, roles.time, roles.day, roles.id, roles.label)
        if choice.column
    }
    used |= set(roles.outcomes) | set(roles.label.others)
    found = {"impressions": [c for n, c in roles.impressions.columns.items() if n not in used]}
    for name, role in roles.attributes.items():
        own = {choice.column for choice in role.columns.values()}
        found[name] = [c for n, c in role.log.columns.items() if n not in own]
    return found


def _propose_column(log: str, column: Column, is_dated: bool) -> tuple[dict[str, Any] | None, str]:
    """Return the settings of a feature without its name, or None, and the reason."""
    reference = f"{log}.{column.name}"
    n = len(column.values)
    if not re.fullmatch(r"[^.\s]+( [^.\s]+)*", column.name):
        return None, "the name contains a dot, or leading, trailing or repeated spaces"
    if not is_dated and column.kind in ("integer", "number") and matches_words(column.words, POPULARITY):
        return None, "a count or rate without a day may include later events, which would leak the label"
    match column.kind:
        case "empty":
            return None, "all values are missing"
        case "time" | "day" | "struct":
            return None, f"a {_NOUNS[column.kind]}; to use it, derive a number or category with `columns`"
        case "list":
            return {"kind": "categorical", "column": reference, "multiple": True}, ""
        case "vector":
            return _propose_vector(reference, column)
        case "number":
            return _propose_numeric(reference, column), ""
    if column.distinct < 2:
        return None, "all values are the same"
    if column.kind == "integer" and column.distinct > _MAX_CATEGORIES and not set(column.words) & {"id", "code", "key"}:
        return _propose_numeric(reference, column), ""
    if column.separator:
        length = int(column.values.astype(str).str.count(re.escape(column.separator)).quantile(0.95)) + 1
        settings = {"kind": "categorical", "column": reference, "separator": column.separator, "length": length}
        return settings, ""
    if column.distinct > max(_MAX_SHARE * n, _MAX_CATEGORIES):
        is_sentence = column.kind == "text" and column.values.str.count(" ").mean() > 2
        what = "; it looks like free text" if is_sentence else ""
        return None, f"{column.distinct:,} distinct values in {n:,} rows{what}"
    return {"kind": "categorical", "column": reference}, ""


def _propose_vector(reference: str, column: Column) -> tuple[dict[str, Any] | None, str]:
    """Return the settings of a vector without its name, or None, and the evidence."""
    found = column.vector
    assert found is not None
    is_list = found.separator is None
    codes = f"{'`multiple: true`' if is_list else f'`separator: {found.separator}`'} and `kind: categorical`"
    hint = f"; if these whole numbers are codes, use {codes}" if found.is_whole else ""
    if found.problem:
        return None, found.problem + hint
    settings: dict[str, Any] = {"kind": "vector", "column": reference, "length": found.length}
    if found.separator not in (None, ","):
        settings["separator"] = found.separator
    irregular = found.examined - found.usual
    if not irregular and not hint:
        return settings, f"{column.name}: 100% of {found.examined:,} values are lists of {found.length} numbers"
    text = f"{CHECK}{column.name}: {found.usual:,} of {found.examined:,} lists have {found.length} numbers"
    if irregular:
        verb = "has" if irregular == 1 else "have"
        text += f", and {irregular:,} {verb} another length or elements that are not finite, and count as missing"
    if irregular > _MAX_UNPARSABLE * found.examined:
        text += f"; a night stops if `checks.max_unparsable` ({_MAX_UNPARSABLE:g}) is less than their share of a day"
    return settings, text + hint


def _propose_numeric(reference: str, column: Column) -> dict[str, Any]:
    values = column.values.astype(float)
    settings: dict[str, Any] = {"kind": "numeric", "column": reference}
    # A few values that are far larger than the others: prices, counts, durations.
    if values.min() >= 0 and values.quantile(0.99) > 5 * max(values.median(), values.mean() / 10):
        settings["log"] = True
    if values.nunique() > _MAX_CATEGORIES:
        settings["encode"] = ["standard", "bucket"]
    return settings


def _propose_history(roles: Roles) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the section `history`, and the names of the kinds from the log of behaviours."""
    history: dict[str, dict[str, Any]] = {"shown": {"impressions": True}, "click": {"outcome": "label"}}
    if roles.behaviours is None:
        return history, []
    log, column = roles.behaviours.log, roles.behaviours.columns["behaviour"].column
    names, kinds = _Names(), list[str]()
    names.taken |= set(history)
    found = log.columns[column].values.astype(str).value_counts().index[:_MAX_BEHAVIOURS] if column else ["event"]
    for behaviour in found:
        kinds.append(names.take(str(behaviour)))
        history[kinds[-1]] = {"behaviours": str(behaviour)}
    return history, kinds


def _propose_outcomes(roles: Roles) -> dict[str, dict[str, Any]]:
    """Return a further outcome for each event after an impression; none without a log of events."""
    if not roles.events:
        return {}
    names, found = _Names(), dict[str, dict[str, Any]]()
    for event in list_events(roles.events[0])[:_MAX_BEHAVIOURS]:
        name = names.take(event)
        found[name] = {**({} if name == event else {"event": event}), "window_hours": WINDOW_HOURS}
    return found


def _propose_statistics(names: _Names, kinds: list[str], categories: list[str]) -> Iterator[Proposal]:
    """Yield statistics that usually help: click rates of users, items, and their pairs with domains and categories."""
    group, rates, counts = "statistics", {"click": "shown"}, ["shown", *kinds]
    proposed: dict[str, dict[str, Any]] = {
        # A user has fewer impressions than an item.
        "by_user": {"by": ["user_id"], "counts": counts, "rates": rates, "prior": 5},
        "by_item": {"by": ["item_id"], "counts": counts, "rates": rates},
        "by_user_domain": {"by": ["user_id", "domain"], "rates": rates},
        "by_item_domain": {"by": ["item_id", "domain"], "rates": rates},
    }
    for category in categories:
        short = category.rsplit(".", 1)[-1].lower()
        proposed[f"by_{short}"] = {"by": [category], "rates": rates}
        proposed[f"by_user_{short}"] = {"by": ["user_id", category], "rates": rates}
    for name, settings in proposed.items():
        yield Proposal({"name": names.take(name), "kind": "statistic", **settings}, group)


def _propose_sequence(roles: Roles, names: _Names, kinds: list[str], categories: list[str]) -> Proposal:
    """Return the sequence of the last events of a user."""
    columns: Mapping[str, str] = {"item_id": "item", **{c: _name_table(c) for c in categories}}
    settings: dict[str, Any] = {
        "name": names.take("clicked"), "kind": "sequence", "of": ["click", *kinds], "columns": columns, "length": 20,
    }  # fmt: skip
    group = "the last events of the user"
    if kinds:
        settings["behaviour"] = True
    if roles.clicks is None:
        settings["cut"] = "day"
        return Proposal(settings, group, "clicks have no timestamp, so only clicks of earlier days count")
    return Proposal(settings, group)


def _name_table(column: str) -> str:
    return _Names().take(column.rsplit(".", 1)[-1])
