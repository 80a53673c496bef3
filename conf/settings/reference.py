"""Settings of references: models trained from scratch, for comparison with incremental models."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel

if TYPE_CHECKING:
    from star_ctr.conf.settings.root import Settings

_FIRST_DAY = dt.date(2001, 1, 1)
"""The Monday from which `every_nights` counts. It is fixed, so that a night that runs again makes the same choice."""


class ReferenceSettings(SettingsModel):
    """References: models trained from scratch, for comparison with models that continue from an earlier night.

    A reference has the settings of its night. It is trained on more days, tested on the same rows, and never served.
    """

    every_nights: int = Field(
        7, ge=1, description="interval between references in days, counted from a Monday; 7: one on each Monday"
    )
    window_days: int = Field(
        7,
        ge=1,
        description="number of training days of a reference, up to the day before the test day; days that `split` does "
        "not store are left out",
    )

    def is_due(self, ds: str) -> bool:
        """Return whether a night has a reference."""
        return (dt.date.fromisoformat(ds) - _FIRST_DAY).days % self.every_nights == 0


def find_reference_problems(settings: Settings) -> list[str]:
    """Return the problems of `reference` and of its combination with other settings."""
    reference, days = settings.reference, settings.window.days
    if reference is None:
        return []
    problems = []
    if settings.trainer.warm_start is None:
        problems.append(
            "reference: every night is trained from scratch; set trainer.warm_start, or remove this section "
            "(reference: null)"
        )
    if settings.split.vocabulary != "grown":
        problems.append(
            "reference: a reference is trained on days that earlier nights have encoded, which requires vocabularies "
            "that grow; set split.vocabulary to grown, or remove this section (reference: null)"
        )
    if reference.window_days < days:
        problems.append(
            f"reference.window_days: {reference.window_days} is less than window.days ({days}), so a reference would "
            f"be trained on fewer days than its night; set it to at least {days}"
        )
    return problems + [
        f"model.embeddings.{name}.expire_days: {table.expire_days} is less than reference.window_days "
        f"({reference.window_days}), so ids in the training rows of a reference could have been reassigned; set it to "
        f"at least {reference.window_days}"
        for name, table in settings.model.embeddings.items()
        if table.expire_days is not None and days <= table.expire_days < reference.window_days
    ]
