"""Settings of the label: a column of the impression log, or clicks of a separate log."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

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


class LabelColumn(SettingsModel):
    """The label is a column of the impression log.

    Values are compared ignoring case, and numbers by value: 1, 1.0 and "1" are the same. Rows with a value that is
    neither `positive` nor `negative` are quarantined. An empty string in a list stands for a missing value.
    """

    column: NonEmptyText = Field(description="column of the impression log that holds the label")
    positive: LabelValues = Field(["1", "true"], description="values that mean a click; default: 1 and true")
    negative: LabelValues = Field(
        ["0", "false"], description="values that mean no click, such as [0, -1, '']; default: 0 and false"
    )

    @model_validator(mode="after")
    def _check_disjoint(self) -> LabelColumn:
        if both := sorted({*self.positive} & {*self.negative}):
            raise ValueError(f"`{both[0]}` is both `positive` and `negative`; remove it from one of them")
        return self


class LabelFromClicks(SettingsModel):
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
