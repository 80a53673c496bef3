"""Settings of the checks that stop a night whose logs cannot be right."""

from __future__ import annotations

from pydantic import Field

from star_ctr.conf.declared import Declared


class Checks(Declared):
    """Limits within which a day of logs is believed; beyond one of them the night stops and says why.

    A night stops as well when its day holds labels of one class only, or when none of its clicks finds its impression.
    """

    max_quarantined: float = Field(
        0.1, ge=0, le=1, description="largest share of a log's rows of a day that may be quarantined"
    )
    max_unparsable: float = Field(
        0.1, ge=0, le=1, description="largest share of a numeric feature's values of a day that may be no numbers"
    )
    max_early_clicks: float = Field(
        0.1, ge=0, le=1, description="largest share of a day's matched clicks that may come before their impression"
    )
    one_class: bool = Field(False, description="accept a day on which everything, or nothing, was clicked")
