"""Write the commented YAML file of a new data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import yaml

from star_ctr.conf.errors import DataError, UserError
from star_ctr.jobs.new_data_set.columns import Column
from star_ctr.jobs.new_data_set.keys import ColumnChoice, get_label_values
from star_ctr.jobs.new_data_set.log_groups import find_groups
from star_ctr.jobs.new_data_set.log_samples import LogSample, read_sample
from star_ctr.jobs.new_data_set.proposals import Proposals, list_logs, propose_features
from star_ctr.jobs.new_data_set.roles import LogColumns, Roles, find_roles

SAMPLE_ROWS = 200_000
"""Maximum number of rows that are read from each log."""
ALL = "everything"
"""The domain of all rows if no column looks like a domain."""
_SMALL_DATA_ROWS = 20_000_000
"""Up to about this number of impressions, the settings of the paper train for too few steps."""
_MAX_WINDOW = 14
_WIDTH = 118
_SECTION_COMMENTS = {
    "impressions": "one row per impression",
    "clicks": "one row per click",
    "behaviours": "other events of users",
    "users": "attributes of users",
    "items": "attributes of items",
}


class LogSummary(NamedTuple):
    """A log of the draft, for the summary.

    Attributes:
        log: The section of the log; empty if the log is not used.
        path: Its glob below the folder of the logs.
        files: The number of files.
        columns: What its columns are used for, as text.
    """

    log: str
    path: str
    files: int
    columns: str


class Draft(NamedTuple):
    """A draft of a YAML file.

    Attributes:
        text: The text of the file.
        logs: What the logs are.
        questions: What only the user can decide.
        notes: What was not read, and other remarks.
    """

    text: str
    logs: list[LogSummary]
    questions: list[str]
    notes: list[str]


def draft_settings(folder: str, name: str, report: Callable[[str], None] = lambda _: None) -> Draft:
    """Draft the YAML file of a data set from its logs.

    Args:
        folder: The folder of the logs, or its URL.
        name: The name of the data set.
        report: Called with the pattern of each log before it is read.

    Returns:
        The draft.

    Raises:
        UserError: There are no logs in the folder, or none looks like impressions.
    """
    fs, groups, unknown = find_groups(folder)
    notes = [f"skipped files of unknown format: {_list_some(unknown)}"] if unknown else []
    samples: list[LogSample] = []
    for group in groups:
        report(group.pattern)
        try:
            samples.append(read_sample(fs, group, SAMPLE_ROWS))
        except DataError as error:
            notes.append(str(error))
    roles = find_roles(samples)
    if roles is None:
        found = ", ".join(group.pattern for group in groups)
        raise UserError(
            f"--logs {folder}: no impression log among {found}. An impression log has a user, an item and a time, and "
            "either a column such as `click` or an id that a click log refers to. Rename its columns, or write the "
            "file by hand (docs/new-data-set.md)" + "".join(f"\n{note}" for note in notes)
        )
    proposals = propose_features(roles)
    notes += [f"{log.sample.group.pattern}: not used; it looks like none of the known logs" for log in roles.unused]
    questions = _list_questions(roles)
    text = "\n".join(_write(roles, proposals, folder, name, questions)) + "\n"
    return Draft(text, list(_summarize(roles)), questions, notes)


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _summarize(roles: Roles) -> Iterator[LogSummary]:
    """Yield a line of the summary per log."""
    for name, log in list_logs(roles).items():
        used = _list_choices(roles, name)
        text = ", ".join(f"{key} `{choice.column}`" for key, choice in used.items() if choice.column)
        yield LogSummary(name, log.sample.group.pattern, len(log.sample.group.files), text)
    for log in roles.unused:
        yield LogSummary("", log.sample.group.pattern, len(log.sample.group.files), "")


def _list_choices(roles: Roles, name: str) -> dict[str, ColumnChoice]:
    """Return the columns of a log that have a role, by their key in the YAML file."""
    if name == "impressions":
        chosen = {
            "id": roles.id, "user": roles.user, "item": roles.item, "domain": roles.domain, "time": roles.time,
            "day": roles.day, "label": roles.label,
        }  # fmt: skip
        return chosen if roles.domain.column else {**chosen, "domain": ColumnChoice(None)}
    return dict(getattr(roles, name)[1])


def _list_questions(roles: Roles) -> list[str]:
    """Return what only the user can decide."""
    found = ["`zone`: set the time zone in which a day of your logs begins at midnight. The draft assumes UTC."]
    if not roles.domain.column:
        found.append(
            "`logs.impressions.domain`: no column looks like a domain, so all rows are in one domain. Set it to the "
            "column that says where an impression was shown, and delete `columns`."
        )
    elif roles.domain.others:
        others = ", ".join(f"`{name}`" for name in roles.domain.others)
        found.append(f"`logs.impressions.domain`: the draft uses `{roles.domain.column}`. Alternatives: {others}.")
    if roles.outcomes:
        found.append(
            "`logs.impressions.outcomes`: list every column that is known only after the impression, and no others. "
            "A feature from such a column leaks the label."
        )
    text = (
        "`logs.{}.as_of`: set `same_day` if a snapshot is written at the start of its day, `day_before` if at the end."
    )
    return found + [text.format(n) for n in ("users", "items") if (log := getattr(roles, n)) and _is_daily(log)]


def _is_daily(log: tuple[LogColumns, dict[str, ColumnChoice]]) -> bool:
    return bool(log[0].sample.group.days or log[1]["day"].column)


def _write(roles: Roles, proposals: Proposals, folder: str, name: str, questions: list[str]) -> Iterator[str]:
    """Yield the lines of the file."""
    yield f"# Drafted by `star-ctr init --logs {folder}`. docs/settings.md describes every key."
    yield "# Check these settings; the logs do not determine them:"
    for question in questions:
        yield from wrap(question, _WIDTH, initial_indent="# - ", subsequent_indent="#   ")
    yield f"name: {name}"
    yield "zone: UTC  # check"
    yield ""
    yield f"paths: {_dump_flow({'logs': _make_absolute(folder), 'warehouse': f'warehouse/{name}'})}"
    yield ""
    yield "logs:"
    for section, log in list_logs(roles).items():
        yield from (f"  {line}" for line in _write_log(roles, section, log, proposals))
    yield ""
    yield from _write_label(roles)
    days = _count_days(roles.impressions)
    window = min(max(days - 1, 1), _MAX_WINDOW) if days else _MAX_WINDOW
    yield f"window: {{days: {window}}}" + (f"  # {days} days of logs; the newest is the test day" if days else "")
    yield ""
    yield from _write_training(roles)
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
                yield f"  # {feature.comment}"
            yield from _wrap(f"- {_dump_flow(feature.settings)}", "  ")
    if proposals.left_out:
        yield "# Columns that are not used. To use one with many values, make it a categorical feature, and add"
        yield "# `model.embeddings.<name>: {encode: hash, rows: 100000}`:"
        yield from (f"# - {column}: {reason}" for column, reason in proposals.left_out.items())


def _write_log(roles: Roles, section: str, log: LogColumns, proposals: Proposals) -> Iterator[str]:
    """Yield the section of a log."""
    group = log.sample.group
    yield f"{section}:  # {_SECTION_COMMENTS[section]}; {len(group.files):,} file{'' if len(group.files) == 1 else 's'}"
    yield f"  path: {_dump_scalar(group.pattern)}"
    yield f"  format: {group.format}"
    yield from (f"  {key}: {_dump_scalar(value)}" for key, value in log.sample.options.items())
    if any(column.decimal == "," for column in log.columns.values()):
        yield '  decimal: ","'
    for key, choice in _list_choices(roles, section).items():
        if key == "label":
            continue
        if key == "domain" and not choice.column:
            yield f"  domain: {ALL}"
            yield f"  columns: {{{ALL}: \"'all'\"}}  # no column looks like a domain"
        elif key == "behaviour" and not choice.column:
            yield "  behaviour: kind"
            yield "  columns: {kind: \"'event'\"}  # no column names the behaviour"
        elif choice.column:
            others = f"; alternatives: {', '.join(choice.others)}" if choice.others else ""
            yield f"  {key}: {_write_column(key, log.columns[choice.column])}  # {choice.reason}{others}"
    if section in ("users", "items") and _is_daily(getattr(roles, section)):
        yield "  as_of: day_before  # assumes that a snapshot is written at the end of its day"
    if section == "impressions" and roles.outcomes:
        yield from _wrap(f"outcomes: {_dump_flow(list(roles.outcomes))}", "  ")
        reasons = list(dict.fromkeys(roles.outcomes.values()))
        for reason in reasons:
            own = [name for name, found in roles.outcomes.items() if found == reason]
            yield f"  # {reason}" if len(reasons) == 1 else f"  # {', '.join(own)}: {reason}"
    if types := dict(proposals.types.get(section, {})):
        yield from _wrap(f"types: {_dump_flow(types)}", "  ")


def _write_column(key: str, column: Column) -> str:
    """Return the value of a key that names a column."""
    if key == "time":
        return _dump_flow(
            {"column": column.name, "unit": column.unit, **({"format": column.format} if column.format else {})}
        )
    if key == "day":
        is_default = column.format in (None, "yyyy-MM-dd")
        return _dump_flow({"column": column.name, **({} if is_default else {"format": column.format})})
    return _dump_scalar(column.name)


def _write_label(roles: Roles) -> Iterator[str]:
    """Yield the section `label`."""
    if roles.label.column is None:
        yield "label: {window_hours: 24}  # an impression counts as clicked if a click follows within these hours"
        return
    positive, negative = get_label_values(roles.impressions.columns[roles.label.column])
    settings: dict[str, Any] = {"column": roles.label.column}
    known = {"1", "true", "0", "false"}
    if not {v.lower() for v in (*positive, *negative)} <= known:
        settings |= {"positive": positive, "negative": negative}
    others = f"; alternatives: {', '.join(roles.label.others)}" if roles.label.others else ""
    yield f"label: {_dump_flow(settings)}  # {roles.label.reason}{others}"


def _count_days(log: LogColumns) -> int:
    """Return the number of days of the impressions; 0 if the sample does not tell."""
    if days := log.sample.group.days:
        return len(days)
    found = next((c.distinct for c in log.columns.values() if c.kind == "day" and c.missing == 0), 0)
    return found if log.sample.is_complete else 0


def _write_training(roles: Roles) -> Iterator[str]:
    """Yield the sections `model` and `trainer`, unless the paper's settings fit."""
    log = roles.impressions
    if not log.sample.is_complete and log.sample.group.size > 50 * _SMALL_DATA_ROWS:
        return
    yield "# A small model, for up to about 20 million impressions. For more, delete `model` and `trainer`: the"
    yield "# defaults are the settings of the paper, for billions of rows."
    yield "model: {layers: [128, 64], activation: silu, dim: 8, norm_eps: 0.1, embeddings: {item: {min_count: 2}}}"
    yield "trainer: {batch_size: 128, optimizer: {lr: 0.002, domain_lr: 0.02, ema_decay: 0.99}}"
    yield ""


def _wrap(text: str, indent: str) -> list[str]:
    """Return the lines of a YAML entry in flow style."""
    more = indent + "  "
    return wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=more, break_long_words=False, break_on_hyphens=False
    )


def _make_absolute(folder: str) -> str:
    return folder if "://" in folder else str(Path(folder).resolve())


def _dump_scalar(value: str) -> str:
    """Return a text as YAML, quoted if needed."""
    return yaml.safe_dump(value, allow_unicode=True, width=10_000).removesuffix("\n...\n").strip()


def _dump_flow(value: Any) -> str:
    """Return a mapping or list as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=100_000).strip()
