"""Draft the settings of a new data set from its logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from fsspec import AbstractFileSystem

from star_ctr.conf.errors import DataError, UserError
from star_ctr.jobs.new_data_set.column_words import POSITION
from star_ctr.jobs.new_data_set.group_merging import merge_groups, tell_apart
from star_ctr.jobs.new_data_set.log_groups import LogGroup, find_groups
from star_ctr.jobs.new_data_set.log_samples import LogSample, read_sample
from star_ctr.jobs.new_data_set.nearest_log import explain_missing_impressions
from star_ctr.jobs.new_data_set.proposals import CHECK, Proposals, propose_features
from star_ctr.jobs.new_data_set.roles import Roles, describe_logs, find_roles
from star_ctr.jobs.new_data_set.settings_text import list_choices, write_settings

SAMPLE_ROWS = 200_000
"""Maximum number of rows that are read from each log."""


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
    samples = _read_samples(fs, groups, report, notes)
    described = describe_logs(samples)
    roles = find_roles(described)
    if roles is None:
        found = ", ".join(group.pattern for group in groups)
        raise UserError(
            f"--logs {folder}: no impression log among {found}. {explain_missing_impressions(described)}"
            + "".join(f"\n{note}" for note in notes)
        )
    proposals = propose_features(roles)
    events = [role.log.sample.group.pattern for role in roles.events]
    notes += [
        f"{log.sample.group.pattern}: not used; it looks like none of the known logs"
        for log in roles.unused
        if log.sample.group.pattern not in events
    ]
    questions = _list_questions(roles, proposals)
    text = "\n".join(write_settings(roles, proposals, folder, name, questions)) + "\n"
    return Draft(text, list(_summarize(roles)), questions, notes)


def _find_offset(roles: Roles) -> str | None:
    """Return the offset from UTC that all times of the impressions have in their text; None if there is none."""
    column = roles.impressions.columns[str(roles.time.column)]
    offsets = column.values.astype(str).str.extract(r"([+-]\d{2}:?\d{2})$")[0].unique()
    return str(offsets[0]) if len(offsets) == 1 and isinstance(offsets[0], str) and offsets[0][1:3] != "00" else None


def _read_samples(
    fs: AbstractFileSystem, groups: list[LogGroup], report: Callable[[str], None], notes: list[str]
) -> list[LogSample]:
    """Read a sample of each log, and merge groups that are one log. Adds what cannot be read to `notes`."""
    samples: list[LogSample] = []
    for group in groups:
        report(group.pattern)
        try:
            samples.append(read_sample(fs, group, SAMPLE_ROWS))
        except DataError as error:
            notes.append(str(error))
    merged = merge_groups([sample.group for sample in samples], [list(s.rows.columns) for s in samples])
    samples = [
        samples[members[0]] if len(members) == 1 else read_sample(fs, group, SAMPLE_ROWS) for group, members in merged
    ]
    groups = tell_apart([sample.group for sample in samples])
    return [sample._replace(group=group) for sample, group in zip(samples, groups, strict=True)]


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _summarize(roles: Roles) -> Iterator[LogSummary]:
    """Yield a line of the summary per log."""
    for name, log in roles.logs.items():
        used = list_choices(roles, name)
        text = ", ".join(f"{key} `{choice.column}`" for key, choice in used.items() if choice.column)
        yield LogSummary(name, log.sample.group.pattern, len(log.sample.group.files), text)
    for log in roles.unused:
        yield LogSummary("", log.sample.group.pattern, len(log.sample.group.files), "")


def _list_questions(roles: Roles, proposals: Proposals) -> list[str]:
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
    if roles.events:
        patterns = [role.log.sample.group.pattern for role in roles.events]
        more = f" Add {_list_some(patterns[1:])} with `sources` (docs/sources.md)." if patterns[1:] else ""
        found.append(
            f"`logs.events`: {patterns[0]} refers to impressions. If the model should also learn these outcomes "
            f"(docs/training.md#further-outcomes), uncomment `logs.events` and `label.also`.{more}"
        )
    checked = [feature.comment for feature in proposals.features if feature.comment.startswith(CHECK)]
    found += [f"`features`: {comment.removeprefix(CHECK)}." for comment in checked]
    text = (
        "`logs.{}.as_of`: set `same_day` if a snapshot is written at the start of its day, `day_before` if at the end."
    )
    positions = [n for n, c in roles.impressions.columns.items() if set(c.words) & POSITION]
    found += [f"`features`: leave out `{n}` if it is not known when rows are scored." for n in positions]
    if offset := _find_offset(roles):
        found.append(f"`zone`: the times have the offset {offset}; is this the time zone of your days?")
    if not roles.is_click_known:
        found.append(
            "`features`: leave out columns that are known only after the impression; the clicks are too many to check"
        )
    if (key := roles.impressions.columns[str(roles.time.column)]).time and roles.time.others:
        others = ", ".join(f"`{name}`" for name in roles.time.others)
        found.append(f"`logs.impressions.time`: the draft uses `{key.name}`. Alternatives: {others}.")
    ambiguous = [(n, c) for n, log in roles.logs.items() for c in log.columns.values() if c.time and c.time.alternative]
    found += [
        f"`logs.{n}`: `{c.name}` may also be {c.time.alternative}, with day and month exchanged."
        for n, c in ambiguous
        if c.time
    ]
    return found + [text.format(name) for name, role in roles.attributes.items() if role.is_daily]
