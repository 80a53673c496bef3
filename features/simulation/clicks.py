"""Simulate clicks: the true click rate of each impression, calibrated to Table 1 of the paper (§4.1).

The click rate is a logistic function of interests, prices, hours, positions, attributes and tastes. Its coefficients
differ by domain or by group of domains. No coefficient is the product of a shared weight and a domain weight, so the
simulator does not favor STAR by its form. The steps are:

1. `compute_preference` computes the logit of a click without the domain bias.
2. `count_thresholds` and `fit_biases` find the bias of each domain at which its click rate is that of Table 1.
3. `add_clicks` computes the true click rate and draws the clicks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.simulate import SIMULATED_DOMAINS, SimulateSettings
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
    draw_city,
    draw_gender,
    draw_interest,
    draw_normal,
    draw_uniform,
    select_value,
)

# Coefficients of the logit by group of domains (domain number modulo 4): of the item's price, the squared difference
# between the user's spend and the price, ln(position), a matching interest, and the closeness to the peak hour of the
# group. DISTANCE and POSITION are subtracted.
PRICE_WEIGHT = (-0.5, 0.35, 0.0, -0.25)
DISTANCE_WEIGHT = (0.30, 0.05, 0.15, 0.45)
POSITION_WEIGHT = (0.15, 0.5, 0.3, 0.05)
INTEREST_WEIGHT = (1.4, 0.9, 1.8, 0.5)
HOUR_WEIGHT = (0.3, -0.3, 0.15, 0.25)
TASTE_ROTATION = 0.25
"""Rotation of a domain's category tastes, in radians per day. Over three days, tastes correlate by cos(0.75) = 0.73."""


def compute_preference(settings: SimulateSettings) -> Column:
    """Compute the logit of a click without the domain bias.

    Args:
        settings: The settings of the simulator.

    Returns:
        An expression over the columns of `make_impressions`, to be added as `preference`. In planted domains,
        it is that of another domain (`same_clicks`), or its sign is reversed (`opposite_clicks`).
    """
    seed, d, day = settings.seed, _get_click_domain(settings), F.col("day")
    user, item = F.col("user"), F.col("item")
    group, category = d % 4, item % CATEGORIES
    likes = F.lit(False)
    for k in range(INTERESTS):
        likes = likes | (category == draw_interest(settings, user, k))
    gap = compute_spend(settings, user, day) - compute_price(settings, item)
    hour = (F.col("shown_at") % DAY_MS) / 3_600_000
    nearness = F.cos(2 * math.pi * (hour - select_value(group, tuple(map(float, PEAK_HOUR)))) / 24)
    angle = TASTE_ROTATION * day
    tastes = F.cos(angle) * draw_normal(seed, "category-domain", category, d)
    tastes = tastes + F.sin(angle) * draw_normal(seed, "category-domain/later", category, d)
    preference = (
        0.55 * compute_quality(settings, item, day)
        + 0.35 * draw_normal(seed, "activity", user)
        + select_value(group, INTEREST_WEIGHT) * likes.cast("double")
        + select_value(group, PRICE_WEIGHT) * compute_price(settings, item)
        - select_value(group, DISTANCE_WEIGHT) * F.least(gap * gap, F.lit(9.0))
        - select_value(group, POSITION_WEIGHT) * F.log(F.col("position"))
        + select_value(group, HOUR_WEIGHT) * nearness
        + 0.30 * draw_normal(seed, "age-domain", draw_age(settings, user), d)
        + 0.25 * draw_normal(seed, "gender-domain", draw_gender(settings, user), d)
        + 0.22 * draw_normal(seed, "city-domain", draw_city(settings, user), d)
        + 0.45 * tastes
    )
    opposite = [SIMULATED_DOMAINS.index(name) + 1 for name in settings.opposite_clicks]
    return F.when(F.col("domain").isin(opposite), -preference).otherwise(preference) if opposite else preference


def _get_click_domain(settings: SimulateSettings) -> Column:
    """Return the number of the domain whose coefficients and tastes determine the clicks of a row."""
    domain = F.col("domain")
    for name, other in settings.same_clicks.items():
        number, source = (SIMULATED_DOMAINS.index(n) + 1 for n in (name, other))
        domain = F.when(F.col("domain") == number, F.lit(source)).otherwise(domain)
    return domain


def compute_threshold(settings: SimulateSettings) -> Column:
    """Compute the domain bias above which a row is clicked: logit(u) - `preference`, with u uniform in (0, 1)."""
    u = draw_uniform(settings.seed, "click", F.col("id"))
    return F.log(u / (1 - u)) - F.col("preference")


def count_thresholds(settings: SimulateSettings, rows: DataFrame) -> DataFrame:
    """Count the rows of each domain by their threshold (see `compute_threshold`).

    Args:
        settings: The settings of the simulator.
        rows: Impressions with `preference`.

    Returns:
        The columns `domain`, `level` (the threshold in hundredths, rounded down) and `n` (the number of rows). The size
        of the table is bounded, whatever the number of impressions, so it can be collected.
    """
    return rows.groupBy("domain", F.floor(compute_threshold(settings) * 100).alias("level")).agg(
        F.count("*").alias("n")
    )


def fit_biases(counts: list[tuple[int, int, int]]) -> dict[int, float]:
    """Find the bias of each domain at which its click rate is that of Table 1 of the paper.

    Args:
        counts: The rows (domain, level, n) of `count_thresholds`.

    Returns:
        The bias by domain number, 1 to 19, interpolated linearly between hundredths. Domains without rows are omitted.
    """
    biases = {}
    for domain, rate in enumerate(CLICK_RATES, start=1):
        domain_counts = sorted((level, n) for d, level, n in counts if d == domain)
        wanted, reached = rate / 100 * sum(n for _, n in domain_counts), 0
        for level, n in domain_counts:
            if reached + n >= wanted:
                biases[domain] = (level + (wanted - reached) / n) / 100
                break
            reached += n
    return biases


def add_clicks(settings: SimulateSettings, rows: DataFrame, biases: Mapping[int, float]) -> DataFrame:
    """Add the true click rate and a drawn click to each impression.

    Args:
        settings: The settings of the simulator.
        rows: Impressions with `preference`.
        biases: The bias by domain number, from `fit_biases`; 0 for a missing domain.

    Returns:
        The rows with `true_rate`, the probability of a click, and `clicked`, a boolean.
    """
    bias = select_value(F.col("domain") - 1, tuple(biases.get(d, 0.0) for d in range(1, len(SHARES) + 1)))
    rows = rows.withColumn("true_rate", 1 / (1 + F.exp(-(bias + F.col("preference")))))
    return rows.withColumn("clicked", compute_threshold(settings) < bias)
