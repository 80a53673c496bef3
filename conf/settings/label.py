"""Settings of the label (a column of the impression log, or clicks of a separate log) and of further outcomes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from star_ctr.conf.settings.base import NonEmptyText, SettingsModel


def normalize_label(value: Any) -> str:
    """Normalize a label value for comparison: 1, 1.0, "1" and "1.0" all become `1`, and None becomes an empty text."""
    if value is None:
        return ""
    text = str(value).strip().lower()
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text).removeprefix("+")


def _normalize_labels(values: Any) -> Any:
    """Normalize a list of label values, or a single value."""
    given = values if isinstance(values, list | tuple) else [values]
    return [normalize_label(v) for v in given]


LabelValues = Annotated[list[str], BeforeValidator(_normalize_labels), Field(min_length=1)]


class LabelledColumn(SettingsModel):
    """A column of the impression log, and which of its values count as positive and negative.

    Values are compared ignoring case, and numbers by value: 1, 1.0 and "1" are the same. Rows with any other value are
    quarantined. An empty string in a list stands for a missing value.
    """

    column: NonEmptyText | None = Field(None, description="column of the impression log")
    positive: LabelValues = Field(["1", "true"], description="values that count as positive; default: 1 and true")
    negative: LabelValues = Field(
        ["0", "false"], description="values that count as negative, such as [0, -1, '']; default: 0 and false"
    )

    @model_validator(mode="after")
    def _check_disjoint(self) -> Self:
        if both := sorted({*self.positive} & {*self.negative}):
            raise ValueError(f"`{both[0]}` is both `positive` and `negative`; remove it from one of them")
        return self


_OutcomeWeight = Annotated[float, Field(gt=0, le=100)]
_WEIGHT = 0.3


class OutcomeColumn(LabelledColumn):
    """A further outcome from a column of the impression log. If the value is missing, the outcome is not known."""

    column: NonEmptyText | None = Field(
        None, description="column of the impression log with the outcome; default: the name of the outcome"
    )
    weight: _OutcomeWeight = Field(_WEIGHT, description="weight of the outcome's loss, relative to that of the label")


class OutcomeEvents(SettingsModel):
    """A further outcome from the log of events: 1 if an event follows the impression within `window_hours`, else 0."""

    event: NonEmptyText | None = Field(
        None, description="name of the event in `logs.events`; default: the name of the outcome"
    )
    window_hours: float = Field(gt=0, description="maximum time from an impression to its event, in hours")
    weight: _OutcomeWeight = Field(_WEIGHT, description="weight of the outcome's loss, relative to that of the label")


def _choose_outcome_type(given: Any) -> str:
    """Return the tag of the type of outcome that a mapping or an object describes."""
    keys = given if isinstance(given, dict) else type(given).model_fields if isinstance(given, SettingsModel) else ()
    return "[events]" if {"event", "window_hours"} & {*keys} else "[column]"


Outcome = Annotated[
    Annotated[OutcomeColumn, Tag("[column]")] | Annotated[OutcomeEvents, Tag("[events]")],
    Discriminator(_choose_outcome_type),
]
"""A further outcome of an impression: a column of its log, or events of a separate log."""


def _expand_outcomes(given: Any) -> Any:
    """Expand outcomes that are given by their weight only, as in `{long_view: 0.3}`."""
    if isinstance(given, str | list):
        raise ValueError(
            "this must map each outcome to the weight of its loss or to a section, such as {long_view: 0.3} or "
            "{purchase: {window_hours: 24}}"
        )
    if not isinstance(given, dict):
        return given
    return {
        name: {"weight": value} if isinstance(value, int | float) and not isinstance(value, bool) else value
        for name, value in given.items()
    }


class LabelBase(SettingsModel):
    """The settings that all types of labels have."""

    also: Annotated[dict[str, Outcome], BeforeValidator(_expand_outcomes)] = Field(
        default_factory=dict,
        # Without further outcomes, the settings have the same hashes as before this key existed.
        exclude_if=lambda also: not also,
        description="further outcomes that the model learns, by name: the weight of a column, such as "
        "{long_view: 0.3}, or a section (docs/training.md#further-outcomes); default: none",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        seen: dict[str, str] = {}
        for name in self.also:
            if not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise ValueError(f"also.{name}: a name may only have letters, digits and `_`; rename the outcome")
            if (other := seen.setdefault(name.lower(), name)) != name:
                raise ValueError(f"also.{name}: differs from `{other}` only in case; rename one of them")
        return self

    @property
    def outcomes(self) -> list[str]:
        """The names of the further outcomes, in the order of the stored columns."""
        return sorted(self.also)

    @property
    def outcome_columns(self) -> dict[str, str]:
        """The columns of the impression log with further outcomes, by name of the outcome."""
        return {name: o.column or name for name, o in sorted(self.also.items()) if isinstance(o, OutcomeColumn)}

    @property
    def outcome_events(self) -> dict[str, OutcomeEvents]:
        """The further outcomes from the log of events, by name."""
        return {name: o for name, o in sorted(self.also.items()) if isinstance(o, OutcomeEvents)}


class LabelColumn(LabelBase, LabelledColumn):
    """The label is a column of the impression log.

    Values are compared ignoring case, and numbers by value: 1, 1.0 and "1" are the same. Rows with a value that is
    neither `positive` nor `negative` are quarantined. An empty string in a list stands for a missing value.
    """

    column: NonEmptyText = Field(description="column of the impression log that holds the label")

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if found := next((name for name, column in self.outcome_columns.items() if column == self.column), None):
            raise ValueError(f"also.{found}: `{self.column}` is the label itself; choose another column")
        return self


class LabelFromClicks(LabelBase):
    """The label is 1 if the click log contains a click on the impression within `window_hours`, else 0.

    Clicks are joined with impressions by the impression's id, so `logs.impressions.id` is required.
    """

    window_hours: float = Field(
        gt=0, description="attribution window: maximum time from an impression to its click, in hours"
    )
    open: Literal["keep", "drop"] = Field(
        "drop",
        description="training rows whose attribution window is still open at the end of the night's day: `drop` leaves "
        "them out, `keep` trains on their labels so far, in which later clicks are missing",
    )


def _choose_form(given: Any) -> str:
    """Return the form of the label that a mapping or an object describes."""
    keys = given if isinstance(given, dict) else type(given).model_fields if isinstance(given, SettingsModel) else ()
    return "[clicks]" if not {"column", "positive", "negative"} & {*keys} else "[column]"


Label = Annotated[
    # Tags in brackets are not shown in messages. With tags, a message concerns only the form that was given.
    Annotated[LabelColumn, Tag("[column]")] | Annotated[LabelFromClicks, Tag("[clicks]")],
    Discriminator(_choose_form),
]
"""The label: a column of the impression log, or clicks of a separate log."""
