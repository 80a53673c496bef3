"""Settings of the simulated logs."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel


class SimulateSettings(SettingsModel):
    """Size of the logs that `star-ctr simulate` writes.

    How clicks arise is fixed and is not a setting; see docs/simulator.md. The same settings always produce the same
    logs.
    """

    impressions: int = Field(600_000, ge=1_000, description="number of impressions over all days")
    days: int = Field(4, ge=2, description="number of days with impressions")
    first_day: dt.date = Field(dt.date(2026, 1, 5), description="first day with impressions")
    users: int = Field(20_000, ge=100, description="number of users")
    items: int = Field(5_000, ge=100, description="number of items")
    seed: int = Field(1, ge=0, description="seed of everything that is drawn at random")
