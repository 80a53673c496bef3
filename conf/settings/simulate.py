"""Settings of the simulated logs."""

from __future__ import annotations

import datetime as dt

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel


class SimulateSettings(SettingsModel):
    """How much to simulate; how clicks arise is described in docs/simulator.md and is not a setting."""

    impressions: int = Field(600_000, ge=1_000, description="impressions over all days")
    days: int = Field(4, ge=2)
    first_day: dt.date = dt.date(2026, 1, 5)
    users: int = Field(20_000, ge=100)
    items: int = Field(5_000, ge=100)
    seed: int = Field(1, ge=0)
