"""Write the commented YAML file of a new data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from star_ctr.jobs.new_data_set.columns import Column
from star_ctr.jobs.new_data_set.event_logs import name_log
from star_ctr.jobs.new_data_set.keys import ColumnChoice, format_count, get_label_values
from star_ctr.jobs.new_data_set.log_columns import LogColumns
from star_ctr.jobs.new_data_set.proposals import WINDOW_HOURS, Proposals
from star_ctr.jobs.new_data_set.roles import Roles
from star_ctr.jobs.new_data_set.time_formats import UNSUPPORTED_UNITS

ALL = "everything"
"""The domain of all rows if no column looks like a domain."""
_MAX_WINDOW = 14
_WIDTH = 118
_MILLISECONDS = "time_in_ms"
"""Name of the added column with a time in milliseconds."""
_SECTION_COMMENTS = {
    "impressions": "one row per impression",
    "clicks": "one row per click",
    "events": "to learn further outcomes, uncomment this section and `label.also`",
    "behaviours": "other events of users",
    "users": "attributes of users",
    "items": "attributes of items",
}


def list_choices(roles: Roles, name: str) -> dict[str, ColumnChoice]:
    """Return the columns of a log that have a role, by their key in the YAML file."""
    if name == "impressions":
        return {
            "id": roles.id, "user": roles.user, "item": roles.item, "domain": roles.domain, "time": roles.time,
            "day": roles.day, "label": roles.label,
        }  # fmt: skip
    return roles.events[0].columns if name == "events" else roles.others[name].columns


def write_settings(roles: Roles, proposals: Proposals, folder: str, name: str, questions: list[str]) -> Iterator[str]:
    """Write the settings of a data set.

    Args:
        roles: What the logs are.
        proposals: The features.
        folder: The folder of the logs, or its URL.
        name: The name of the data set.
        questions: What only the user can decide.

    Yields:
        The lines of the YAML file.
    """
    yield f"# Drafted by `star-ctr init --logs {folder}`. docs/settings.md describes every key."
    yield "# Check these settings; the logs do not determine them:"
    for question in questions:
        yield from wrap(question, _WIDTH, initial_indent="# - ", subsequent_indent="#   ")
    yield f"name: {name}"
    yield "zone: UTC  # check"
    yield ""
    yield f"paths: {_dump_flow({'logs': _make_absolute(folder), 'warehouse': _make_absolute(f'warehouse/{name}')})}"
    yield ""
    yield "logs:"
    for section, log in roles.logs.items():
        yield from (f"  {line}" for line in _write_log(roles, section, log, proposals))
    if roles.events:
        yield from (f"  # {line}" for line in _write_log(roles, "events", roles.events[0].log, proposals))
    yield ""
    yield from _write_label(roles, proposals)
    days = _count_days(roles)
    window = min(max(days - 1, 1), _MAX_WINDOW) if days else _MAX_WINDOW
    yield f"window: {{days: {window}}}" + (f"  # {days} days of logs; the newest is the test day" if days else "")
    yield ""
    yield from _write_model()
    yield "history:"
    yield from (f"  {kind}: {_dump_flow(settings)}" for kind, settings in proposals.history.items())
    yield ""
    yield "# Whole numbers with many values are numeric features. If they are codes, make them categorical."
    yield "features:"
    for group in dict.fromkeys(feature.group for feature in proposals.features):
        own = [feature for feature in proposals.features if feature.group == group]
        yield f"  # {group}"
        for feature in own:
            if feature.comment:
                yield from wrap(feature.comment, _WIDTH, initial_indent="  # ", subsequent_indent="  #   ")
            yield from _wrap(f"- {_dump_flow(feature.settings)}", "  ")
    if proposals.left_out:
        yield "# Columns that are not used. To use one with many values, make it a categorical feature, and add"
        yield "# `model.embeddings.<name>: {encode: hash, rows: 100000}`:"
        yield from (f"# - {column}: {reason}" for column, reason in proposals.left_out.items())


def _write_log(roles: Roles, section: str, log: LogColumns, proposals: Proposals) -> Iterator[str]:
    """Yield the section of a log."""
    group = log.sample.group
    yield f"{section}:  # {_SECTION_COMMENTS[section]}; {format_count(len(group.files), 'file')}"
    yield f"  path: {_dump_scalar(group.pattern)}"
    yield f"  format: {group.format}"
    yield from (f"  {key}: {_dump_scalar(value)}" for key, value in log.sample.options.items())
    if any(column.decimal == "," for column in log.columns.values()):
        yield '  decimal: ","'
    for key, choice in list_choices(roles, section).items():
        if key == "label":
            continue
        if key == "domain" and not choice.column:
            yield f"  domain: {ALL}"
        elif key == "behaviour" and not choice.column:
            yield "  behaviour: kind"
        elif key == "event" and not choice.column:
            yield f"  event: {_name_event_column(log)}"
        elif choice.column:
            others = f"; alternatives: {', '.join(choice.others)}" if choice.others else ""
            yield f"  {key}: {_write_column(key, log.columns[choice.column])}  # {choice.reason}{others}"
    if added := list(_list_added_columns(roles, section, log)):
        yield "  columns:"
        yield from (f"    {name}: {_dump_scalar(expression)}  # {reason}" for name, expression, reason in added)
    if section in roles.attributes and roles.attributes[section].is_daily:
        yield "  as_of: day_before  # assumes that a snapshot is written at the end of its day"
    if section == "impressions" and roles.outcomes:
        yield from _wrap(f"outcomes: {_dump_flow(list(roles.outcomes))}", "  ")
        reasons = list(dict.fromkeys(roles.outcomes.values()))
        for reason in reasons:
            own = [name for name, found in roles.outcomes.items() if found == reason]
            yield f"  # {reason}" if len(reasons) == 1 and len(own) > 3 else f"  # {', '.join(own)}: {reason}"
    if types := dict(proposals.types.get(section, {})):
        yield from _wrap(f"types: {_dump_flow(types)}", "  ")


def _name_event_column(log: LogColumns) -> str:
    """Return a name that no column of the log has, for the added column with the name of the event."""
    taken, name = {column.lower() for column in log.columns}, "event"
    while name in taken:
        name += "_name"
    return name


def _write_column(key: str, column: Column) -> str:
    """Return the value of a key that names a column."""
    written = column.time
    if key not in ("time", "day") or written is None:
        return _dump_scalar(column.name)
    pattern = {"format": written.format} if written.format else {}
    if key == "day":
        return _dump_flow({"column": column.name, **({} if written.format == "yyyy-MM-dd" else pattern)})
    if written.unit in UNSUPPORTED_UNITS:
        return _dump_flow({"column": _MILLISECONDS, "unit": "ms"})
    return _dump_flow({"column": column.name, "unit": written.unit, **pattern})


def _list_added_columns(roles: Roles, section: str, log: LogColumns) -> Iterator[tuple[str, str, str]]:
    """Yield the columns that a log needs: their name, expression and the reason."""
    choices = list_choices(roles, section)
    if section == "impressions" and not roles.domain.column:
        yield ALL, "'all'", "no column looks like a domain"
    if section == "behaviours" and not choices["behaviour"].column:
        yield "kind", "'event'", "no column names the behaviour"
    if section == "events" and not choices["event"].column:
        yield _name_event_column(log), f"'{name_log(log)}'", "no column names the event"
    time = choices.get("time")
    if time and time.column and (written := log.columns[time.column].time) and written.unit in UNSUPPORTED_UNITS:
        yield (
            _MILLISECONDS,
            f"cast(`{time.column}` as bigint) div {UNSUPPORTED_UNITS[written.unit]}",
            f"`{time.column}` is in {written.unit}",
        )


def _write_label(roles: Roles, proposals: Proposals) -> Iterator[str]:
    """Yield the section `label`."""
    if roles.label.column is None:
        reason = "# an impression counts as clicked if a click follows within these hours"
        if not proposals.outcomes:
            yield f"label: {{window_hours: {WINDOW_HOURS}}}  {reason}"
            return
        yield "label:"
        yield f"  window_hours: {WINDOW_HOURS}  {reason}"
        yield "  # also:  # further outcomes, from `logs.events`: 1 if the event follows within these hours"
        yield from (
            f"  #   {_dump_scalar(name)}: {_dump_flow(settings)}" for name, settings in proposals.outcomes.items()
        )
        return
    values = get_label_values(roles.impressions.columns[roles.label.column])
    assert values is not None
    positive, negative = values
    settings: dict[str, Any] = {"column": roles.label.column}
    known = {"1", "true", "0", "false"}
    if not {v.lower() for v in (*positive, *negative)} <= known:
        settings |= {"positive": positive, "negative": negative}
    others = f"; alternatives: {', '.join(roles.label.others)}" if roles.label.others else ""
    yield f"label: {_dump_flow(settings)}  # {roles.label.reason}{others}"


def _count_days(roles: Roles) -> int:
    """Return the number of days of the impressions; 0 if the sample does not tell."""
    log = roles.impressions
    if days := log.sample.group.days:
        return len(days)
    return log.columns[roles.day.column].distinct if roles.day.column and log.sample.is_complete else 0


def _write_model() -> Iterator[str]:
    """Yield the section `model`."""
    yield "# The first night chooses batch size, layers and learning rates for the data size (`star-ctr recipe`)."
    yield "# To override a value, set its key. To use the paper's defaults instead, set `preset: paper`."
    yield "model: {embeddings: {item: {min_count: 2}}}"
    yield ""


def _wrap(text: str, indent: str) -> list[str]:
    """Return the lines of a YAML entry in flow style."""
    # Keep a key and its value on one line.
    joined = text.replace(": ", ":\u00a0")
    lines = wrap(
        joined,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(":\u00a0", ": ") for line in lines]


def _make_absolute(folder: str) -> str:
    return folder if "://" in folder else str(Path(folder).resolve())


def _dump_scalar(value: str) -> str:
    """Return a text as YAML, quoted if needed."""
    return yaml.safe_dump(value, allow_unicode=True, width=10_000).removesuffix("\n...\n").strip()


def _dump_flow(value: Any) -> str:
    """Return a mapping or list as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=100_000).strip()
