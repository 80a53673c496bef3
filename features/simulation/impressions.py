"""Simulate users, items and impressions of 19 domains.

Each random value is a hash of the seed, a purpose, and the number of a row, user or item. No random number generator is
used. The logs therefore do not depend on partitions, and the attributes of users and items are computed without a join.
docs/simulator.md describes the simulated world; `star_ctr.features.simulation.clicks` simulates the clicks.
"""

from __future__ import annotations

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.simulate import SimulateSettings

# Table 1 of the paper: share of examples and click rate of domains 1 to 19, in percent.
SHARES = (
    0.99, 1.61, 3.40, 3.85, 2.79, 0.56, 4.27, 16.76, 10.00, 12.16,
    0.76, 1.31, 3.34, 28.76, 1.17, 0.46, 1.05, 0.91, 5.85,
)  # fmt: skip
CLICK_RATES = (
    2.14, 2.69, 2.97, 3.63, 2.77, 3.45, 3.59, 3.24, 3.23, 2.08,
    12.05, 3.52, 1.27, 3.75, 12.03, 4.02, 1.63, 4.64, 1.42,
)  # fmt: skip

CATEGORIES = 40
INTERESTS = 3
DAY_MS = 86_400_000
DEFECT_DUPLICATE, DEFECT_BROKEN = 0.001, 0.0002
"""Shares of the impressions that are logged twice, and that have an additional broken row."""
ORPHAN_SHARE, REPEAT_SHARE, LATE_SHARE, SLOW_SHARE = 0.002, 0.01, 0.003, 0.057
"""Shares of the clicks: with an additional orphan click, logged twice, delayed by more than a day, delayed by hours."""
COMMON_USER_SHARE, PRIVATE_ITEM_SHARE = 0.35, 0.12
"""Share of the users that are common to all domains, and share of the items that belong to a single domain.

Each is also the probability that such a user or item is drawn.
"""
PEAK_HOUR = (9, 21, 13, 18)
"""The busiest hour of the day (UTC) by group of domains (domain number modulo 4)."""


def name_domain(number: int) -> str:
    """Format a domain number, 1 to 19, as `d01` to `d19`."""
    return f"d{number:02d}"


def draw_uniform(seed: int, purpose: str, *keys: Column) -> Column:
    """Draw a uniform number in (0, 1); equal arguments give the same number.

    Args:
        seed: The seed of the simulator.
        purpose: The name of the random variable; numbers of different purposes are independent.
        keys: The numbers of the row, user or item to draw for.

    Returns:
        A column of doubles.
    """
    bits = F.shiftrightunsigned(F.xxhash64(F.lit(seed), F.lit(purpose), *keys), 11)
    return (bits.cast("double") + 0.5) / float(1 << 53)


def draw_normal(seed: int, purpose: str, *keys: Column) -> Column:
    """Draw a standard normal number with the Box-Muller transform; equal arguments give the same number.

    Args:
        seed: The seed of the simulator.
        purpose: The name of the random variable; numbers of different purposes are independent.
        keys: The numbers of the row, user or item to draw for.

    Returns:
        A column of doubles.
    """
    radius = F.sqrt(-2.0 * F.log(draw_uniform(seed, f"{purpose}/r", *keys)))
    return radius * F.cos(2.0 * math.pi * draw_uniform(seed, f"{purpose}/a", *keys))


def select_value(index: Column, values: tuple[float, ...]) -> Column:
    """Return `values[index]`, for an index that is a column."""
    return F.element_at(F.array(*(F.lit(v) for v in values)), index.cast("int") + 1)


def get_first_day_ms(settings: SimulateSettings) -> int:
    """Return midnight (UTC) of the first day, in epoch milliseconds."""
    return (settings.first_day.toordinal() - 719_163) * DAY_MS


def format_day(settings: SimulateSettings, day: Column) -> Column:
    """Format a day number (0 is the first day) as yyyy-MM-dd."""
    return F.date_format(F.date_add(F.lit(settings.first_day.isoformat()).cast("date"), day.cast("int")), "yyyy-MM-dd")


def format_user(user: Column) -> Column:
    """Format a user number as a user id of the logs."""
    return F.format_string("u%08d", user)


def format_item(item: Column) -> Column:
    """Format an item number as an item id of the logs."""
    return F.format_string("i%07d", item)


# --- Users and items


def draw_interest(settings: SimulateSettings, user: Column, k: Column | int) -> Column:
    """Draw the `k`-th category of interest of a user, 0 to 39; low categories are more frequent."""
    index = k if isinstance(k, Column) else F.lit(k)
    return F.floor(CATEGORIES * F.pow(draw_uniform(settings.seed, "interest", user, index), F.lit(1.5)))


def draw_age(settings: SimulateSettings, user: Column) -> Column:
    """Draw the age band of a user, 0 to 5."""
    return F.floor(6 * draw_uniform(settings.seed, "age", user))


def draw_gender(settings: SimulateSettings, user: Column) -> Column:
    """Draw the gender of a user, 0 or 1."""
    return F.floor(2 * draw_uniform(settings.seed, "gender", user))


def draw_city(settings: SimulateSettings, user: Column) -> Column:
    """Draw the level of a user's city, 0 to 4."""
    return F.floor(5 * draw_uniform(settings.seed, "city", user))


def compute_spend(settings: SimulateSettings, user: Column, day: Column) -> Column:
    """Compute how much a user spends, on a log scale; the amount varies slightly from day to day."""
    drift = 0.1 * F.sin(day * 1.3 + 2 * math.pi * draw_uniform(settings.seed, "purse-phase", user))
    return draw_normal(settings.seed, "purse", user) + drift


def compute_price(settings: SimulateSettings, item: Column) -> Column:
    """Compute the price of an item on a log scale, as the sum of a category effect and an item effect."""
    return 0.7 * draw_normal(settings.seed, "category-price", item % CATEGORIES) + 0.7 * draw_normal(
        settings.seed, "price", item
    )


def compute_quality(settings: SimulateSettings, item: Column, day: Column) -> Column:
    """Compute the quality of an item: a fixed part, and a part that rises and falls over the days, like a fashion."""
    phase = 2 * math.pi * draw_uniform(settings.seed, "fashion", item)
    return draw_normal(settings.seed, "quality", item) + 0.4 * F.sin(day * 0.9 + phase)


def make_users(settings: SimulateSettings, numbers: DataFrame) -> DataFrame:
    """Make the user table.

    Args:
        settings: The settings of the simulator.
        numbers: One row per user and day, with `id` (the user number) and `day` (the day number).

    Returns:
        One snapshot per user and day: `user_id`, `day`, `age_band`, `gender`, `city_level` and `spend`.
    """
    user, day = F.col("id"), F.col("day")
    return numbers.select(
        format_user(user).alias("user_id"),
        format_day(settings, day).alias("day"),
        F.format_string("a%d", draw_age(settings, user)).alias("age_band"),
        F.when(draw_gender(settings, user) == 0, "f").otherwise("m").alias("gender"),
        F.format_string("c%d", draw_city(settings, user)).alias("city_level"),
        F.round(F.exp(4.0 + compute_spend(settings, user, day)), 2).alias("spend"),
    )


def make_items(settings: SimulateSettings, numbers: DataFrame) -> DataFrame:
    """Make the item table.

    Args:
        settings: The settings of the simulator.
        numbers: One row per item, with `id` (the item number).

    Returns:
        One row per item: `item_id`, `category`, `shop`, `brand` and `price`.
    """
    item, seed = F.col("id"), settings.seed
    shops = max(10, settings.items // 20)
    return numbers.select(
        format_item(item).alias("item_id"),
        F.format_string("k%02d", item % CATEGORIES).alias("category"),
        F.format_string("s%05d", F.floor(shops * draw_uniform(seed, "shop", item))).alias("shop"),
        F.format_string("b%03d", F.floor(200 * F.pow(draw_uniform(seed, "brand", item), F.lit(2)))).alias("brand"),
        F.round(F.exp(3.0 + compute_price(settings, item)), 2).alias("price"),
    )


# --- Impressions


def _split_shares(shares: tuple[float, ...]) -> list[tuple[float, float]]:
    """Split [0, 1] into consecutive intervals whose lengths are proportional to `shares`."""
    total, edges = sum(shares), [0.0]
    for share in shares:
        edges.append(edges[-1] + share / total)
    return list(zip(edges[:-1], edges[1:], strict=True))


def draw_user(settings: SimulateSettings, row: Column, domain: Column, purpose: str) -> Column:
    """Draw a user of a domain.

    With probability `COMMON_USER_SHARE`, it is a user that is common to all domains, else a user of this domain only.
    The first user numbers are the common users. The other numbers are divided between the domains in proportion to
    `SHARES`. The distribution is skewed: few users are drawn often, and most are drawn rarely.

    Args:
        settings: The settings of the simulator.
        row: The number of the row.
        domain: The domain number, 1 to 19.
        purpose: The prefix of the purposes to draw for.

    Returns:
        The user number.
    """
    common = int(settings.users * COMMON_USER_SHARE)
    private = settings.users - common
    starts = tuple(a for a, _ in _split_shares(SHARES))
    sizes = tuple(b - a for a, b in _split_shares(SHARES))
    skewed = F.pow(draw_uniform(settings.seed, f"{purpose}/rank", row), F.lit(1.8))
    common_user = F.floor(common * skewed)
    offset = private * (select_value(domain - 1, starts) + select_value(domain - 1, sizes) * skewed)
    private_user = common + F.floor(offset)
    is_common = draw_uniform(settings.seed, f"{purpose}/common", row) < COMMON_USER_SHARE
    return F.when(is_common, common_user).otherwise(private_user)


def draw_item(
    settings: SimulateSettings, row: Column, user: Column, domain: Column | None, purpose: str, liked_share: float
) -> Column:
    """Draw an item; most items are common to all domains, and a few belong to a single domain.

    Args:
        settings: The settings of the simulator.
        row: The number of the row.
        user: The user number.
        domain: The domain number, 1 to 19; None draws only items that are common to all domains.
        purpose: The prefix of the purposes to draw for.
        liked_share: The probability that the category is one of the user's interests; otherwise it is uniform.

    Returns:
        The item number. Its remainder modulo `CATEGORIES` is the category.
    """
    seed, category_items = settings.seed, max(settings.items // CATEGORIES, 2)
    k = F.floor(INTERESTS * draw_uniform(seed, f"{purpose}/which", row))
    liked = draw_interest(settings, user, k)
    anything = F.floor(CATEGORIES * draw_uniform(seed, f"{purpose}/any", row))
    category = F.when(draw_uniform(seed, f"{purpose}/fits", row) < liked_share, liked).otherwise(anything)
    common = max(1, int(category_items * (1 - PRIVATE_ITEM_SHARE)))
    rank = F.floor(common * F.pow(draw_uniform(seed, f"{purpose}/place", row), F.lit(2)))
    if domain is not None:
        # The last ranks of a category are private: each domain has a segment of them.
        segment = domain - 1 + draw_uniform(seed, "private", domain, category, F.floor(rank / 8))
        private = common + F.floor((category_items - common) * segment / len(SHARES))
        rank = F.when(draw_uniform(seed, f"{purpose}/private", row) < PRIVATE_ITEM_SHARE, private).otherwise(rank)
    return rank * CATEGORIES + category


def make_impressions(settings: SimulateSettings, numbers: DataFrame) -> DataFrame:
    """Make the impressions, without labels.

    Args:
        settings: The settings of the simulator.
        numbers: One row per impression, with `id` (0 to `settings.impressions` - 1).

    Returns:
        The columns `id`, `domain` (1 to 19), `day` (the day number), `user`, `item`, `position` (from 1) and `shown_at`
        (epoch milliseconds).
    """
    row, seed = F.col("id"), settings.seed
    u = draw_uniform(seed, "domain", row)
    domain = F.lit(len(SHARES))
    for number, (_, end) in reversed(list(enumerate(_split_shares(SHARES)[:-1], start=1))):
        domain = F.when(u < end, F.lit(number)).otherwise(domain)
    base = numbers.select(
        "id", domain.alias("domain"), F.floor(row * settings.days / settings.impressions).alias("day")
    )
    base = base.withColumn("user", draw_user(settings, row, F.col("domain"), "shown"))
    base = base.withColumn("item", draw_item(settings, row, F.col("user"), F.col("domain"), "item", 0.45))
    peak = select_value(F.col("domain") % 4, tuple(map(float, PEAK_HOUR)))
    at_peak = peak + 3.0 * (draw_uniform(seed, "hour/a", row) + draw_uniform(seed, "hour/b", row) - 1.0)
    hour = F.when(draw_uniform(seed, "hour/peak", row) < 0.6, at_peak).otherwise(
        24 * draw_uniform(seed, "hour/any", row)
    )
    shown_at = get_first_day_ms(settings) + F.col("day") * DAY_MS + F.floor(hour * 3_600_000)
    position = 1 + F.floor(10 * F.pow(draw_uniform(seed, "position", row), F.lit(1.7)))
    return base.withColumn("position", position).withColumn("shown_at", shown_at.cast("long"))
