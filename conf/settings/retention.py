"""Settings of `star-ctr clean`: how long to keep data that is no longer needed."""

from __future__ import annotations

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel


class RetentionSettings(SettingsModel):
    """Ages in days after which `star-ctr clean` deletes data. Data without an age is kept.

    Ages of nights count back from the newest night. The serving model, the models that a rollback can return to, and
    pinned runs are kept regardless of age, with the table versions that they were trained on.
    """

    replaced: float = Field(30, ge=0, description="days to keep table files after a newer table version replaced them")
    attempts: float | None = Field(
        30,
        ge=0,
        description="days to keep attempts after a newer attempt of the same run superseded them, and to keep replays; "
        "null: keep all",
    )
    features: int | None = Field(
        None,
        ge=1,
        description="age of `features` and `labels` in days; the training window of the newest night is kept; default: "
        "keep all",
    )
    history: int | None = Field(
        None,
        ge=1,
        description="age in days of `history_counts` and `history_events`; `clean` deletes only what was merged into a "
        "base; needs `state.expire_days`; days that the next night reads one by one are kept; default: keep all",
    )
    splits: int | None = Field(
        None, ge=1, description="age of the encoded rows of a night and their vocabularies in days; default: keep all"
    )
    scores: int | None = Field(
        None, ge=1, description="age of a night's `scores` in days; metrics are always kept; default: keep all"
    )
    models: int | None = Field(None, ge=1, description="age of a night's models in days; default: keep all")
    rollbacks: int = Field(5, ge=0, description="number of earlier serving models to keep for rollbacks")
    pinned: list[str] = Field(
        default_factory=list, description="ids of runs whose models are kept regardless of age; default: none"
    )
