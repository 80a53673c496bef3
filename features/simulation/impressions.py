"""Simulated logs of 19 domains: who is shown what, where and when.

Everything is drawn by hashing (seed, purpose, number of the row, user or item), never by a generator: the logs
are the same whatever the partitions, and attributes need no join. docs/simulator.md describes the world in
words, `simulated_clicks` how clicks arise.
"""

from __future__ import annotations

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.settings.simulate import SimulateSettings

# Table 1 of the paper: share of the examples and click rate, in per cent, domains 1 to 19.
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
DEFECT_DUPLICATE, DEFECT_BAD = 0.001, 0.0002
ORPHANS, REPEATS, LATE, SLOW = 0.002, 0.01, 0.003, 0.057
COMMON_USERS, PRIVATE_ITEMS = 0.35, 0.12
PEAK_HOUR = (9, 21, 13, 18)


def format_domain(number: int) -> str:
    """`d01` to `d19`."""
    return f"d{number:02d}"


def draw_uniform(seed: int, purpose: str, *of: Column) -> Column:
    """A number in (0, 1) that (seed, purpose, of) decide."""
    bits = F.shiftrightunsigned(F.xxhash64(F.lit(seed), F.lit(purpose), *of), 11)
    return (bits.cast("double") + 0.5) / float(1 << 53)


def draw_normal(seed: int, purpose: str, *of: Column) -> Column:
    """A standard normal number that (seed, purpose, of) decide (Box and Muller)."""
    radius = F.sqrt(-2.0 * F.log(draw_uniform(seed, f"{purpose}/r", *of)))
    return radius * F.cos(2.0 * math.pi * draw_uniform(seed, f"{purpose}/a", *of))


def draw_choice(index: Column, values: tuple[float, ...]) -> Column:
    """`values[index]`."""
    return F.element_at(F.array(*(F.lit(v) for v in values)), index.cast("int") + 1)


def get_first_day_ms(settings: SimulateSettings) -> int:
    """Midnight (UTC) of the first day in epoch milliseconds."""
    return (settings.first_day.toordinal() - 719_163) * DAY_MS


def format_day(settings: SimulateSettings, day: Column) -> Column:
    """The day with a number (0 is the first) as yyyy-MM-dd."""
    return F.date_format(F.date_add(F.lit(settings.first_day.isoformat()).cast("date"), day.cast("int")), "yyyy-MM-dd")


def format_user(user: Column) -> Column:
    """The id of a user as the logs write it."""
    return F.format_string("u%08d", user)


def format_item(item: Column) -> Column:
    """The id of an item as the logs write it."""
    return F.format_string("i%07d", item)


# --- what users and items are


def draw_interest(settings: SimulateSettings, user: Column, k: Column | int) -> Column:
    """The k-th of a user's categories of interest."""
    which = k if isinstance(k, Column) else F.lit(k)
    return F.floor(CATEGORIES * F.pow(draw_uniform(settings.seed, "interest", user, which), F.lit(1.5)))


def draw_age(settings: SimulateSettings, user: Column) -> Column:
    """The number of a user's age band, 0 to 5."""
    return F.floor(6 * draw_uniform(settings.seed, "age", user))


def draw_gender(settings: SimulateSettings, user: Column) -> Column:
    """0 or 1."""
    return F.floor(2 * draw_uniform(settings.seed, "gender", user))


def draw_city(settings: SimulateSettings, user: Column) -> Column:
    """The level of a user's city, 0 to 4."""
    return F.floor(5 * draw_uniform(settings.seed, "city", user))


def compute_spend(settings: SimulateSettings, user: Column, day: Column) -> Column:
    """How much a user spends, on a log scale; it drifts a little from day to day."""
    drift = 0.1 * F.sin(day * 1.3 + 2 * math.pi * draw_uniform(settings.seed, "purse-phase", user))
    return draw_normal(settings.seed, "purse", user) + drift


def compute_price(settings: SimulateSettings, item: Column) -> Column:
    """How much an item costs, on a log scale: a level of its category and its own."""
    return 0.7 * draw_normal(settings.seed, "category-price", item % CATEGORIES) + 0.7 * draw_normal(
        settings.seed, "price", item
    )


def compute_quality(settings: SimulateSettings, item: Column, day: Column) -> Column:
    """How good an item is; fashions come and go over the days."""
    phase = 2 * math.pi * draw_uniform(settings.seed, "fashion", item)
    return draw_normal(settings.seed, "quality", item) + 0.4 * F.sin(day * 0.9 + phase)


def make_users(settings: SimulateSettings, numbers: DataFrame) -> DataFrame:
    """The user table from rows (id: user, day: number of the day): one snapshot a day."""
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
    """The item table from rows (id: item)."""
    item, seed = F.col("id"), settings.seed
    shops = max(10, settings.items // 20)
    return numbers.select(
        format_item(item).alias("item_id"),
        F.format_string("k%02d", item % CATEGORIES).alias("category"),
        F.format_string("s%05d", F.floor(shops * draw_uniform(seed, "shop", item))).alias("shop"),
        F.format_string("b%03d", F.floor(200 * F.pow(draw_uniform(seed, "brand", item), F.lit(2)))).alias("brand"),
        F.round(F.exp(3.0 + compute_price(settings, item)), 2).alias("price"),
    )


# --- who meets what


def _split_shares(shares: tuple[float, ...]) -> list[tuple[float, float]]:
    total, edges = sum(shares), [0.0]
    for share in shares:
        edges.append(edges[-1] + share / total)
    return list(zip(edges[:-1], edges[1:], strict=True))


def draw_user(settings: SimulateSettings, row: Column, domain: Column, purpose: str) -> Column:
    """A user of a domain: some are common to all, the others its own; few do much, many do little."""
    common = int(settings.users * COMMON_USERS)
    own = settings.users - common
    starts = tuple(a for a, _ in _split_shares(SHARES))
    sizes = tuple(b - a for a, b in _split_shares(SHARES))
    skewed = F.pow(draw_uniform(settings.seed, f"{purpose}/rank", row), F.lit(1.8))
    of_all = F.floor(common * skewed)
    of_domain = common + F.floor(own * (draw_choice(domain - 1, starts) + draw_choice(domain - 1, sizes) * skewed))
    return F.when(draw_uniform(settings.seed, f"{purpose}/common", row) < COMMON_USERS, of_all).otherwise(of_domain)


def draw_item(
    settings: SimulateSettings, row: Column, user: Column, domain: Column | None, purpose: str, fit: float
) -> Column:
    """An item: with probability `fit` of a category that the user likes; most items are common to all domains."""
    seed, rows = settings.seed, max(settings.items // CATEGORIES, 2)
    k = F.floor(INTERESTS * draw_uniform(seed, f"{purpose}/which", row))
    liked = draw_interest(settings, user, k)
    anything = F.floor(CATEGORIES * draw_uniform(seed, f"{purpose}/any", row))
    category = F.when(draw_uniform(seed, f"{purpose}/fits", row) < fit, liked).otherwise(anything)
    common = max(1, int(rows * (1 - PRIVATE_ITEMS)))
    place = F.floor(common * F.pow(draw_uniform(seed, f"{purpose}/place", row), F.lit(2)))
    if domain is not None:
        # Every domain has a stretch of its own among the private places of a category.
        within = domain - 1 + draw_uniform(seed, "private", domain, category, F.floor(place / 8))
        private = common + F.floor((rows - common) * within / len(SHARES))
        place = F.when(draw_uniform(seed, f"{purpose}/private", row) < PRIVATE_ITEMS, private).otherwise(place)
    return place * CATEGORIES + category


def make_impressions(settings: SimulateSettings, numbers: DataFrame) -> DataFrame:
    """What is shown, from rows (id), without labels: id, day, domain (1 to 19), user, item, position, shown_at."""
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
    peak = draw_choice(F.col("domain") % 4, tuple(map(float, PEAK_HOUR)))
    at_peak = peak + 3.0 * (draw_uniform(seed, "hour/a", row) + draw_uniform(seed, "hour/b", row) - 1.0)
    hour = F.when(draw_uniform(seed, "hour/peak", row) < 0.6, at_peak).otherwise(
        24 * draw_uniform(seed, "hour/any", row)
    )
    shown_at = get_first_day_ms(settings) + F.col("day") * DAY_MS + F.floor(hour * 3_600_000)
    position = 1 + F.floor(10 * F.pow(draw_uniform(seed, "position", row), F.lit(1.7)))
    return base.withColumn("position", position).withColumn("shown_at", shown_at.cast("long"))
