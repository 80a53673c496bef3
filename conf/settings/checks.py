"""Settings of the data quality checks."""

from __future__ import annotations

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel


class CheckSettings(SettingsModel):
    """Data quality limits for a day of logs. The night stops if a limit is exceeded.

    The checks run after the tables and the quarantine are written, so that the data can be inspected. A night also
    stops if all labels of its day are the same (see `one_class`), or if none of its clicks matches an impression.
    """

    max_quarantined: float = Field(
        0.1,
        ge=0,
        le=1,
        description="maximum share of a log's rows for a day that may be quarantined; duplicates and dropped domains "
        "do not count as quarantined",
    )
    max_unparsable: float = Field(
        0.1,
        ge=0,
        le=1,
        description="maximum share of the values of a numeric feature or vector for a day that may be unparsable",
    )
    max_early_clicks: float = Field(
        0.1,
        ge=0,
        le=1,
        description="maximum share of a day's matched clicks that may precede their impression; a larger share is a "
        "sign of a wrong `zone`",
    )
    one_class: bool = Field(
        False, description="whether to accept a day on which all rows have the same label; by default, the night stops"
    )
    jumps: bool = Field(
        True,
        description="whether to list the measures of a day that deviate from those of up to 14 earlier days: after "
        "`features`, in the report and in the reason of the gate; they never stop the night",
    )
