"""Settings of the label: a column of the impression log, or clicks of a separate log."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from star_ctr.conf.settings.base import NonEmpty, SettingsModel


def normalize_label(value: Any) -> str:
    """Normalize a label value for comparison: 1, 1.0, "1" and "1.0" all become `1`."""
    if value is None:
        return ""
    text = str(value).strip().lower()
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text).removeprefix("+")


def _normalize_labels(values: Any) -> Any:
    given = values if isinstance(values, list | tuple) else [values]
    return [normalize_label(v) for v in given]


LabelValues = Annotated[list[str], BeforeValidator(_normalize_labels), Field(min_length=1)]


class LabelColumn(SettingsModel):
    """The label is a column of the impression log; `positive` values are clicks, `negative` values are not.

    Rows with any other value are quarantined. An empty string in a list stands for a missing value.
    """

    column: NonEmpty
    positive: LabelValues = Field(["1", "true"], description="values that mean a click")
    negative: LabelValues = Field(["0", "false"], description="values that mean no click, such as [0, -1, '']")

    @model_validator(mode="after")
    def _check_disjoint(self) -> LabelColumn:
        if both := sorted({*self.positive} & {*self.negative}):
            raise ValueError(f"`{both[0]}` is both `positive` and `negative`; remove it from one of them")
        return self


class LabelFromClicks(SettingsModel):
    """The label is 1 where the click log holds a click within `window_hours` after the impression."""

    window_hours: float = Field(gt=0)
