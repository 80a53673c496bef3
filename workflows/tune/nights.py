"""The nights of a search: those to search on, and the unseen night for the final comparison."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from typing import NamedTuple

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import check_day, list_window_days
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.newest_day import find_newest_day, list_complete_days
from star_ctr.jobs.registry.job_definition import PinnedVersions
from star_ctr.workflows.trials import prepare_nights

_SEARCH_NIGHTS = 2
"""Number of nights to search on by default."""


class Nights(NamedTuple):
    """The nights of a search, all of them before the newest night.

    Attributes:
        newest: The newest night, which is not used.
        search: The nights to search on, in ascending order.
        unseen: The last night before `newest`, on which the proposed settings are compared with the current ones.
    """

    newest: str
    search: list[str]
    unseen: str


class Prepared(NamedTuple):
    """The inputs of all training runs of a search.

    Attributes:
        settings: The settings, with the recipe.
        nights: The nights.
        pins: The pinned inputs of each night.
    """

    settings: Settings
    nights: Nights
    pins: dict[str, PinnedVersions]


def prepare(
    settings: Settings, spark: SparkSession, ds: str | None = None, nights: Sequence[str] | None = None
) -> Prepared:
    """Choose the nights, write their splits, and pin them.

    Args:
        settings: The settings.
        spark: The Spark session.
        ds: The newest night; by default, the newest complete day of the logs.
        nights: The nights to search on; by default, the last two before the unseen night.

    Returns:
        The inputs of the training runs.

    Raises:
        DataError: The logs have too few days.
        UserError: A night is not before the unseen night, or training starts from an earlier run.
    """
    newest = check_day(ds) if ds else find_newest_day(settings, spark)
    chosen = choose_nights(settings, list_complete_days(settings, spark), newest, nights)
    return pin_nights(settings, spark, chosen)


def pin_nights(settings: Settings, spark: SparkSession, nights: Nights) -> Prepared:
    """Write the splits of some nights, and pin them; raises `UserError` if training starts from an earlier run."""
    if settings.trainer.warm_start is not None:
        more = " --set reference=null" if settings.reference is not None else ""
        raise UserError(
            "trainer.warm_start: tune compares models that are trained from scratch; run it with "
            f"--set trainer.warm_start=null{more}"
        )
    settings, pins = prepare_nights(settings, spark, sorted({*nights.search, nights.unseen}))
    return Prepared(settings, nights, pins)


def choose_nights(settings: Settings, days: Sequence[str], newest: str, nights: Sequence[str] | None = None) -> Nights:
    """Choose the nights of a search.

    Args:
        settings: The settings, with the training window and the attribution window.
        days: The complete days of the impression log, in ascending order.
        newest: The newest night.
        nights: The nights to search on; by default, the last two before the unseen night that have training days.

    Returns:
        The nights.

    Raises:
        DataError: There are too few days.
        UserError: A night in `nights` is not before the unseen night.
    """
    before = [day for day in days if day < newest]
    usable = [night for night in before if _has_training_days(settings, days, night)]
    if len(usable) < 2:
        span = f"({before[0]} to {before[-1]}) " if before else ""
        raise DataError(
            f"logs.impressions: the {len(before)} complete days {span}before {newest} are too few to tune; a day to "
            "train on, a night to search on and an unseen night are needed, so at least three. Add earlier logs, or "
            "choose a later --ds"
        )
    unseen = usable[-1]
    if nights is None:
        return Nights(newest, usable[-1 - _SEARCH_NIGHTS : -1], unseen)
    for night in nights:
        if check_day(night) >= unseen:
            what = "is reserved as the unseen night" if night == unseen else "is after the unseen night"
            raise UserError(f"--nights {night}: this night {what}; choose nights before {unseen}, or a later --ds")
        if night not in usable:
            raise UserError(
                f"--nights {night}: the logs lack this day, or days to train on; choose from {usable[0]}"
                f" to {usable[-2]}"
            )
    return Nights(newest, sorted(set(nights)), unseen)


def _has_training_days(settings: Settings, days: Sequence[str], night: str) -> bool:
    """Return whether the training window of a night has a day whose labels are final on that night."""
    label = settings.label
    is_open = isinstance(label, LabelFromClicks) and label.open == "drop"
    age = max(1, math.ceil(label.window_hours / 24)) if is_open else 1  # type: ignore[union-attr]
    last = (dt.date.fromisoformat(night) - dt.timedelta(days=age)).isoformat()
    return any(day <= last for day in days if day in list_window_days(settings, night)[:-1])
