"""Write logs that differ from those of `star-ctr simulate`, to test the defaults.

- `news`: six pages of a news site. Articles live for two days, and their CTR falls with age. CTR is highest at the
  first positions. A few heavy users see a third of all impressions.
- `shop`: two domains, a small one and a large one, of a shop whose products and users hardly change. The CTR depends on
  the price of a product relative to what the user usually buys.

The click probability of each impression is written to a second folder (`FOLDER-truth`), which no model may read.

    python bench/other_shapes.py news /data/news --days 5 --impressions 100000 --seed 1
    star-ctr init --logs /data/news
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

FIRST_DAY = pd.Timestamp("2026-03-01")


def draw_times(rng: np.random.Generator, day: int, rows: int) -> pd.Series:
    """Return sorted times of a day, with more rows in the evening."""
    hours = rng.choice(24, rows, p=(w := 1 + np.sin((np.arange(24) - 14) * np.pi / 12) * 0.7) / w.sum())
    seconds = np.sort(hours * 3600 + rng.integers(0, 3600, rows))
    return FIRST_DAY + pd.to_timedelta(day, "D") + pd.Series(pd.to_timedelta(seconds, "s"))


def write_news(folder: Path, days: int, impressions: int, seed: int) -> None:
    """Write the logs of the news site."""
    rng = np.random.default_rng(seed)
    pages = np.array(["front", "sport", "politics", "local", "culture", "alerts"])
    page_share, page_level = np.array([0.5, 0.2, 0.12, 0.1, 0.06, 0.02]), np.array([-3.0, -2.6, -3.2, -2.8, -3.4, -1.8])
    topics, users = 12, max(300, impressions // 40)
    activity = rng.pareto(1.3, users) + 0.1
    activity /= activity.sum()
    taste = rng.normal(0, 0.7, (users, topics))
    page_taste = rng.normal(0, 0.4, (len(pages), topics))
    user_level, region = rng.normal(0, 0.5, users), rng.integers(0, 8, users)
    per_day = max(60, impressions // 300)
    quality, topic = rng.normal(0, 0.6, per_day * (days + 2)), rng.integers(0, topics, per_day * (days + 2))
    author = rng.integers(0, 80, len(topic))
    quality += rng.normal(0, 0.3, 80)[author]
    published = np.concatenate([d * 86_400 + np.sort(rng.integers(0, 86_400, per_day)) for d in range(-2, days)])
    for day in range(days):
        at = draw_times(rng, day, impressions)
        second = ((at - FIRST_DAY) / pd.Timedelta(seconds=1)).to_numpy()
        user, page = rng.choice(users, impressions, p=activity), rng.choice(len(pages), impressions, p=page_share)
        newest = np.searchsorted(published, second) - 1
        item = np.maximum(newest - np.minimum(rng.geometric(2.5 / per_day, impressions), 2 * per_day - 1), 0)
        age = (second - published[item]) / 3600
        position = rng.geometric(0.25, impressions).clip(1, 12)
        logit = (
            page_level[page] + user_level[user] + quality[item] + taste[user, topic[item]] + page_taste[page, topic[item]]
            - 0.035 * age - 0.18 * (position - 1)
        )  # fmt: skip
        write_day(
            folder, day, at, 1 / (1 + np.exp(-logit)), rng,
            user="u" + pd.Series(user).astype(str), item="a" + pd.Series(item).astype(str), page=pages[page],
            position=position, device=rng.choice(["phone", "desk"], impressions, p=[0.7, 0.3]),
        )  # fmt: skip
    items = {"item": [f"a{k}" for k in range(len(topic))], "topic": [f"t{k}" for k in topic]}
    items |= {"author": [f"w{k}" for k in author], "published": FIRST_DAY + pd.to_timedelta(published, "s")}
    write(folder / "items.parquet", pd.DataFrame(items))
    write(folder / "users.parquet", pd.DataFrame({"user": [f"u{k}" for k in range(users)], "region": region}))


def write_shop(folder: Path, days: int, impressions: int, seed: int) -> None:
    """Write the logs of the shop."""
    rng = np.random.default_rng(seed)
    users, items, groups = max(200, impressions // 25), max(200, impressions // 50), 20
    group, price = rng.integers(0, groups, items), rng.lognormal(3, 0.8, items)
    budget, user_level = rng.normal(3, 0.5, users), rng.normal(0, 0.6, users)
    quality, taste = rng.normal(0, 0.5, items), rng.normal(0, 0.5, (users, groups))
    popularity = rng.pareto(1.2, items) + 0.05
    popularity /= popularity.sum()
    activity = rng.gamma(0.7, 1, users)
    activity /= activity.sum()
    domain_effect = rng.normal(0, 0.5, (2, groups))
    for day in range(days):
        at = draw_times(rng, day, impressions)
        user, item = rng.choice(users, impressions, p=activity), rng.choice(items, impressions, p=popularity)
        domain = (rng.random(impressions) < 0.08).astype(int)
        distance = np.abs(np.log(price[item]) - budget[user])
        logit = (
            np.array([-2.2, -1.2])[domain] + user_level[user] + quality[item] + taste[user, group[item]]
            + domain_effect[domain, group[item]] - 0.8 * distance
        )  # fmt: skip
        write_day(
            folder, day, at, 1 / (1 + np.exp(-logit)), rng,
            user=user, item=item, surface=np.array(["search", "mail"])[domain],
        )  # fmt: skip
    catalog = {"item": np.arange(items), "category": [f"c{g}" for g in group], "price": price.round(2)}
    write(folder / "items.parquet", pd.DataFrame(catalog))


def write_day(
    folder: Path, day: int, at: pd.Series, probability: np.ndarray, rng: np.random.Generator, **columns: object
) -> None:
    """Write the impressions of a day with drawn clicks, and their click probabilities."""
    ds = str((FIRST_DAY + pd.Timedelta(days=day)).date())
    ids = [f"{ds}-{k}" for k in range(len(at))]
    clicked = (rng.random(len(at)) < probability).astype(int)
    rows = pd.DataFrame({"impression": ids, "time": at, **columns, "clicked": clicked})
    write(folder / "impressions" / f"{ds}.parquet", rows)
    truth = pd.DataFrame({"impression": ids, "probability": probability})
    write(folder.with_name(folder.name + "-truth") / f"{ds}.parquet", truth)


def write(file: Path, rows: pd.DataFrame) -> None:
    """Write rows to a Parquet file, and create its folder if needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(file, index=False)


SHAPES: dict[str, Callable[[Path, int, int, int], None]] = {"news": write_news, "shop": write_shop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES, help="shape of the logs")
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--days", type=int, default=5, help="number of days")
    parser.add_argument("--impressions", type=int, default=100_000, help="number of impressions per day")
    parser.add_argument("--seed", type=int, default=1, help="seed of the logs")
    arguments = parser.parse_args()
    SHAPES[arguments.shape](arguments.folder, arguments.days, arguments.impressions, arguments.seed)


if __name__ == "__main__":
    main()
