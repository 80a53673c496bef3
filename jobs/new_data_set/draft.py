"""Write the commented YAML file of a new data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from star_ctr.conf.errors import DataError, UserError
from star_ctr.jobs.new_data_set.columns import Column
from star_ctr.jobs.new_data_set.keys import Choice, get_label_values
from star_ctr.jobs.new_data_set.log_groups import find_groups
from star_ctr.jobs.new_data_set.log_samples import LogSample, read_sample
from star_ctr.jobs.new_data_set.proposals import Proposals, list_logs, propose_features
from star_ctr.jobs.new_data_set.roles import LogColumns, Roles, find_roles

SAMPLE_ROWS = 200_000
"""Maximum number of rows that are read from each log."""
ALL = "everything"
"""The domain of all rows if no column looks like a domain."""
_SMALL = 20_000_000
"""Up to about this number of impressions, the settings of the paper train for too few steps."""
_MAX_WINDOW = 14
_ABOUT = {
    "impressions": "One row per impression.",
    "clicks": "One row per click.",
    "behaviours": "Other events of users.",
    "users": "Attributes of users.",
    "items": "Attributes of items.",
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
    notes = [f"not read, because their format is not known: {_list_some(unknown)}"] if unknown else []
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
            f"--logs {folder}: none of the logs ({found}) looks like impressions: one row per impression with a user, "
            "an item, a time, and a column `click` or a log of clicks that refers to its id. Write the file by hand as "
            "in docs/new-data-set.md" + "".join(f"\n{note}" for note in notes)
        )
    proposals = propose_features(roles)
    notes += [f"{log.sample.group.pattern}: not used" for log in roles.unused]
    questions = _list_questions(roles)
    text = "\n".join(_write(roles, proposals, folder, name, questions)) + "\n"
    return Draft(text, list(_summarize(roles)), questions, notes)


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _summarize(roles: Roles) -> Iterator[LogSummary]:
    """Yield a line of the summary per log."""
    for name, log in list_logs(roles).items():
        used = _describe_columns(roles, name)
        text = ", ".join(f"{key} `{choice.column}`" for key, choice in used.items() if choice.column)
        yield LogSummary(name, log.sample.group.pattern, len(log.sample.group.files), text)
    for log in roles.unused:
        yield LogSummary("", log.sample.group.pattern, len(log.sample.group.files), "")


def _describe_columns(roles: Roles, name: str) -> dict[str, Choice]:
    """Return the columns of a log that have a role, by their key in the YAML file."""
    if name == "impressions":
        chosen = {
            "id": roles.id, "user": roles.user, "item": roles.item, "domain": roles.domain, "time": roles.time,
            "day": roles.day, "label": roles.label,
        }  # fmt: skip
        return chosen if roles.domain.column else {**chosen, "domain": Choice(None)}
    return dict(getattr(roles, name)[1])


def _list_questions(roles: Roles) -> list[str]:
    """Return what only the user can decide."""
    found = ["`zone`: the time zone in which your days begin; the draft says UTC"]
    if not roles.domain.column:
        found.append(
            "`logs.impressions.domain`: no column looks like a domain, so all rows are in one; name the column that "
            "says where an impression was shown"
        )
    elif roles.domain.others:
        others = ", ".join(f"`{name}`" for name in roles.domain.others)
        found.append(f"`logs.impressions.domain`: `{roles.domain.column}` was chosen; {others} would fit, too")
    if roles.outcomes:
        found.append(
            "`logs.impressions.outcomes`: whether these columns, and no others, are about what happened after the "
            "impression; a feature that knows the outcome makes the metrics worthless"
        )
    text = "`logs.{}.as_of`: whether a snapshot is written at the start or at the end of its day"
    return found + [text.format(n) for n in ("users", "items") if (log := getattr(roles, n)) and _is_daily(log)]


def _is_daily(log: tuple[LogColumns, dict[str, Choice]]) -> bool:
    return bool(log[0].sample.group.days or log[1]["day"].column)


def _write(roles: Roles, proposals: Proposals, folder: str, name: str, questions: list[str]) -> Iterator[str]:
    """Yield the lines of the file."""
    yield f"# Drafted by `star-ctr init --logs {folder}`. docs/settings.md describes every key."
    yield "# What only you can decide:"
    yield from (f"# - {question}" for question in questions)
    yield f"name: {name}"
    yield "zone: UTC"
    yield ""
    yield f"paths: {_flow({'logs': _make_absolute(folder), 'warehouse': f'warehouse/{name}'})}"
    yield ""
    yield "logs:"
    for section, log in list_logs(roles).items():
        yield from (f"  {line}" for line in _write_log(roles, section, log, proposals))
    yield ""
    yield from _write_label(roles)
    days = _count_days(roles.impressions)
    window = min(max(days - 1, 1), _MAX_WINDOW) if days else _MAX_WINDOW
    yield f"window: {{days: {window}}}" + (f"  # the logs have {days} days" if days else "")
    yield ""
    yield from _write_training(roles)
    yield "history:"
    yield from (f"  {kind}: {_flow(settings)}" for kind, settings in proposals.history.items())
    yield ""
    yield "features:"
    for feature in proposals.features:
        yield f"  - {_flow(feature.settings)}" + (f"  # {feature.comment}" if feature.comment else "")
    if proposals.left_out:
        yield "# Columns without a feature:"
        yield from (f"# - {column}: {reason}" for column, reason in proposals.left_out.items())


def _write_log(roles: Roles, section: str, log: LogColumns, proposals: Proposals) -> Iterator[str]:
    """Yield the section of a log."""
    group = log.sample.group
    yield f"{section}:  # {_ABOUT[section]} {len(group.files):,} file{'' if len(group.files) == 1 else 's'}"
    yield f"  path: {_scalar(group.pattern)}"
    yield f"  format: {group.format}"
    yield from (f"  {key}: {_scalar(value)}" for key, value in log.sample.options.items())
    if any(column.decimal == "," for column in log.columns.values()):
        yield '  decimal: ","'
    for key, choice in _describe_columns(roles, section).items():
        if key == "label":
            continue
        if key == "domain" and not choice.column:
            yield f"  domain: {ALL}"
            yield f"  columns: {{{ALL}: \"'all'\"}}  # no column looks like a domain"
        elif key == "behaviour" and not choice.column:
            yield "  behaviour: kind"
            yield "  columns: {kind: \"'event'\"}  # no column names the behaviour"
        elif choice.column:
            others = f"; {', '.join(choice.others)} would fit, too" if choice.others else ""
            yield f"  {key}: {_write_column(key, log.columns[choice.column])}  # {choice.reason}{others}"
    if section in ("users", "items") and _is_daily(getattr(roles, section)):
        yield "  as_of: day_before  # a snapshot is written at the end of its day"
    if section == "impressions" and roles.outcomes:
        yield f"  outcomes: {_flow(list(roles.outcomes))}"
        for reason in dict.fromkeys(roles.outcomes.values()):
            yield f"  # {', '.join(name for name, own in roles.outcomes.items() if own == reason)}: {reason}"
    if types := dict(proposals.types.get(section, {})):
        yield f"  types: {_flow(types)}"


def _write_column(key: str, column: Column) -> str:
    """Return the value of a key that names a column."""
    if key == "time":
        return _flow(
            {"column": column.name, "unit": column.unit, **({"format": column.format} if column.format else {})}
        )
    if key == "day":
        is_default = column.format in (None, "yyyy-MM-dd")
        return _flow({"column": column.name, **({} if is_default else {"format": column.format})})
    return _scalar(column.name)


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
    others = f"; {', '.join(roles.label.others)} would fit, too" if roles.label.others else ""
    yield f"label: {_flow(settings)}  # {roles.label.reason}{others}"


def _count_days(log: LogColumns) -> int:
    """Return the number of days of the impressions; 0 if the sample does not tell."""
    if days := log.sample.group.days:
        return len(days)
    found = next((c.distinct for c in log.columns.values() if c.kind == "day" and c.missing == 0), 0)
    return found if log.sample.is_whole else 0


def _write_training(roles: Roles) -> Iterator[str]:
    """Yield the sections `model` and `trainer`, unless the paper's settings fit."""
    log = roles.impressions
    read = len(log.sample.rows)
    if not log.sample.is_whole and log.sample.group.size > 50 * _SMALL:
        return
    yield f"# For fewer than about {_SMALL:,} impressions; the sample has {read:,}. Without these sections, the"
    yield "# settings of the paper apply, which are for billions of rows."
    yield "model: {layers: [128, 64], activation: silu, dim: 8, norm_eps: 0.1, embeddings: {item: {min_count: 2}}}"
    yield "trainer: {batch_size: 128, optimizer: {lr: 0.002, domain_lr: 0.02, ema_decay: 0.99}}"
    yield ""


def _make_absolute(folder: str) -> str:
    return folder if "://" in folder else str(Path(folder).resolve())


def _scalar(value: str) -> str:
    """Return a text as YAML, quoted if needed."""
    return yaml.safe_dump(value, allow_unicode=True, width=10_000).removesuffix("\n...\n").strip()


def _flow(value: Any) -> str:
    """Return a mapping or list as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=100_000).strip()
