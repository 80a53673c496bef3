"""How clicks of the simulated logs arise: the true rate of an impression, and its calibration to Table 1.

The rate is a logistic function of interests, prices, hours, positions, attributes and tastes whose weights differ by
domain or group of domains; it knows nothing of a shared weight times a domain's weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.simulate import SimulateSettings
from star_ctr.features.simulation.impressions import (
    CATEGORIES,
    CLICK_RATES,
    DAY_MS,
    INTERESTS,
    PEAK_HOUR,
    SHARES,
    compute_price,
    compute_quality,
    compute_spend,
    draw_age,
    draw_choice,
    draw_city,
    draw_gender,
    draw_interest,
    draw_normal,
    draw_uniform,
)

# By group of domains (number modulo 4): how price, the distance of price and purse, the position, interests
# and the nearness to the domain's busiest hour act on the logit.
PRICE = (-0.5, 0.35, 0.0, -0.25)
DISTANCE = (0.30, 0.05, 0.15, 0.45)
POSITION = (0.15, 0.5, 0.3, 0.05)
INTEREST = (1.4, 0.9, 1.8, 0.5)
HOUR = (0.3, -0.3, 0.15, 0.25)
TURN = 0.25
"""Radians a day by which a domain's tastes turn: those of three days before correlate with today's by 0.73."""


def compute_preference(settings: SimulateSettings) -> Column:
    """The logit of a click, but for the domain's own level, from the columns of `impressions`."""
    seed, d, day = settings.seed, F.col("domain"), F.col("day")
    user, item = F.col("user"), F.col("item")
    group, category = d % 4, item % CATEGORIES
    likes = F.lit(False)
    for k in range(INTERESTS):
        likes = likes | (category == draw_interest(settings, user, k))
    gap = compute_spend(settings, user, day) - compute_price(settings, item)
    hour = (F.col("shown_at") % DAY_MS) / 3_600_000
    nearness = F.cos(2 * math.pi * (hour - draw_choice(group, tuple(map(float, PEAK_HOUR)))) / 24)
    turned = TURN * day
    tastes = F.cos(turned) * draw_normal(seed, "category-domain", category, d)
    tastes = tastes + F.sin(turned) * draw_normal(seed, "category-domain/later", category, d)
    return (
        0.55 * compute_quality(settings, item, day)
        + 0.35 * draw_normal(seed, "activity", user)
        + draw_choice(group, INTEREST) * likes.cast("double")
        + draw_choice(group, PRICE) * compute_price(settings, item)
        - draw_choice(group, DISTANCE) * F.least(gap * gap, F.lit(9.0))
        - draw_choice(group, POSITION) * F.log(F.col("position"))
        + draw_choice(group, HOUR) * nearness
        + 0.30 * draw_normal(seed, "age-domain", draw_age(settings, user), d)
        + 0.25 * draw_normal(seed, "gender-domain", draw_gender(settings, user), d)
        + 0.22 * draw_normal(seed, "city-domain", draw_city(settings, user), d)
        + 0.45 * tastes
    )


def compute_threshold(settings: SimulateSettings) -> Column:
    """The level that a domain needs for a row to be clicked: logit(u) - preference."""
    u = draw_uniform(settings.seed, "click", F.col("id"))
    return F.log(u / (1 - u)) - F.col("preference")


def count_thresholds(settings: SimulateSettings, rows: DataFrame) -> DataFrame:
    """How many rows of each domain need which level, in hundredths: domain, level, n (a bounded table)."""
    return rows.groupBy("domain", F.floor(compute_threshold(settings) * 100).alias("level")).agg(
        F.count("*").alias("n")
    )


def fit_biases(counts: list[tuple[int, int, int]]) -> dict[int, float]:
    """The level of each domain at which its share of clicks is Table 1's, from a `count_thresholds`."""
    found = {}
    for domain, rate in enumerate(CLICK_RATES, start=1):
        of_domain = sorted((level, n) for d, level, n in counts if d == domain)
        wanted, reached = rate / 100 * sum(n for _, n in of_domain), 0
        for level, n in of_domain:
            if reached + n >= wanted:
                found[domain] = (level + (wanted - reached) / n) / 100
                break
            reached += n
    return found


def add_clicks(settings: SimulateSettings, rows: DataFrame, level: Mapping[int, float]) -> DataFrame:
    """Rows with `true_rate` and `clicked`."""
    of_domain = draw_choice(F.col("domain") - 1, tuple(level.get(d, 0.0) for d in range(1, len(SHARES) + 1)))
    rows = rows.withColumn("true_rate", 1 / (1 + F.exp(-(of_domain + F.col("preference")))))
    return rows.withColumn("clicked", compute_threshold(settings) < of_domain)
