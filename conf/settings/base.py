"""Base class and common types of all settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NonEmptyText = Annotated[str, Field(min_length=1)]
"""Text with at least one character."""


class SettingsModel(BaseModel):
    """Base class of all settings. Unknown keys are rejected, and values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
