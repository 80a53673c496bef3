"""Measures of healthy days, drawn without Spark: weekday swings, small domains, slow growth and overdispersed counts."""

from __future__ import annotations

import datetime as dt

import numpy as np

from star_ctr.jobs.quality.measures import (
    CLICKED,
    DISTINCT,
    DOMAIN,
    DUPLICATES,
    EARLY,
    HEAVIEST,
    HOUR,
    MATCH,
    MEDIAN,
    NULL,
    QUARANTINED,
    ROWS,
    SPREAD,
    UNPARSABLE,
    UNSEEN,
    Measure,
)  # fmt: skip

FIRST = dt.date(2026, 1, 5)
DOMAINS = 20
NULLS = (0.0, 0.0, 0.0003, 0.002, 0.02, 0.1, 0.35, 0.9, 0.999, 1.0)
CARDINALITIES = (1, 2, 3, 5, 12, 40, 300, 3_000, 30_000, 200_000)


def to_logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


class HealthyLogs:
    """A data set with its own sizes, shares and rates; `draw_day` draws the measures of one day."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.rows = float(np.exp(rng.uniform(np.log(5_000), np.log(2_000_000))))
        self.growth = float(rng.uniform(-0.003, 0.012))
        self.by_weekday = np.exp(rng.normal(0, 0.06, 7))
        self.by_weekday[5:] *= np.exp(rng.uniform(-0.4, 0.3))
        self.shares = 1 / np.arange(1, DOMAINS + 1) ** rng.uniform(0.8, 1.8)
        self.shares /= self.shares.sum()
        self.weekend_share = np.exp(rng.normal(0, 0.2, DOMAINS))
        self.rates = np.exp(rng.normal(-3.3, 0.6, DOMAINS))
        self.weekend_rate = np.exp(rng.normal(0, 0.1))
        hours = 1.05 + np.cos(2 * np.pi * (np.arange(24) - rng.uniform(12, 21)) / 24)
        self.hours = hours / hours.sum()
        self.nulls = rng.choice(NULLS, 10)
        self.matched = {"users": rng.uniform(0.5, 0.98), "items": rng.uniform(0.9, 0.999)}
        self.unseen = rng.uniform(0.001, 0.5, 6)
        self.heaviest = float(np.exp(rng.uniform(np.log(0.0005), np.log(0.02))))
        self.medians = np.exp(rng.normal(2, 2, 5))
        self.widths = self.medians * rng.uniform(0.2, 2.0, 5)
        self.quarantined = {"user: missing": 0.003, "at: no usable time": 0.0002, "slot: not a double": 0.00001}

    def draw_share(self, p: float, n: int, noise: float) -> int:
        """Draw hits out of `n`, with a probability that varies from day to day by `noise` on the logit scale."""
        if p in (0.0, 1.0) or n == 0:
            return int(p * n)
        return int(self.rng.binomial(n, 1 / (1 + np.exp(-to_logit(p) - self.rng.normal(0, noise)))))

    def draw_day(self, k: int) -> list[Measure]:
        rng, day = self.rng, FIRST + dt.timedelta(days=k)
        ds, is_weekend = day.isoformat(), day.weekday() >= 5
        n = int(
            rng.poisson(
                self.rows * (1 + self.growth) ** k * self.by_weekday[day.weekday()] * np.exp(rng.normal(0, 0.06))
            )
        )
        found: list[Measure] = []

        def add(log: str, name: str, measure: str, rows: int, hits: int, value: float | None = None) -> None:
            found.append(Measure(ds, log, name, measure, rows, hits, value))

        quarantined = {reason: self.draw_share(p, n, 0.4) for reason, p in self.quarantined.items()}
        duplicates = self.draw_share(0.001, n, 0.3)
        valid = n - duplicates - sum(quarantined.values())
        add("impressions", "", ROWS, n, valid)
        add("impressions", "", DUPLICATES, n, duplicates)
        for reason, hits in quarantined.items():
            if hits:
                add("impressions", reason, QUARANTINED, n, hits)
        hours = self.hours ** (0.8 if is_weekend else 1.0) * np.exp(rng.normal(0, 0.08, 24))
        for hour, hits in enumerate(rng.multinomial(valid, hours / hours.sum())):
            add("impressions", f"{hour:02d}", HOUR, valid, int(hits))
        for c, (p, distinct) in enumerate(zip(self.nulls, CARDINALITIES, strict=True)):
            add("impressions", f"impressions.c{c}", NULL, valid, self.draw_share(p, valid, 0.12))
            seen = (
                distinct * (1 - np.exp(-4 * valid / distinct))
                if distinct > 50
                else distinct - (distinct > 3 and rng.random() < 0.1)
            )
            add(
                "impressions",
                f"impressions.c{c}",
                DISTINCT,
                valid,
                round(seen * np.exp(rng.normal(0, 0.05 * (distinct > 50)))),
            )
        for c, (middle, width) in enumerate(zip(self.medians, self.widths, strict=True)):
            value = middle + width * rng.normal(0, 0.08)
            add("impressions", f"impressions.x{c}", MEDIAN, valid, valid, float(f"{value:.1e}"))
            add(
                "impressions",
                f"impressions.x{c}",
                SPREAD,
                valid,
                valid,
                float(f"{width * np.exp(rng.normal(0, 0.1)):.1e}"),
            )
            add("impressions", f"impressions.x{c}", UNPARSABLE, valid, self.draw_share(0.001 * c, valid, 0.3))
        add("impressions", "impressions.flag", MEDIAN, valid, valid, float(rng.random() < 0.5))
        add("impressions", "impressions.flag", SPREAD, valid, valid, float(rng.random() < 0.8))
        add(
            "impressions",
            "impressions.user",
            HEAVIEST,
            valid,
            round(valid * self.heaviest * np.exp(rng.normal(0, 0.3))),
        )
        shares = self.shares * np.where(is_weekend, self.weekend_share, 1.0) * np.exp(rng.normal(0, 0.1, DOMAINS))
        sizes = rng.multinomial(valid, shares / shares.sum())
        swing = (self.weekend_rate if is_weekend else 1.0) * np.exp(rng.normal(0, 0.05))
        rates = np.clip(self.rates * swing * np.exp(rng.normal(0, 0.07, DOMAINS)), 0, 0.9)
        # Users with many rows make clicks vary by twice the variance of independent rows.
        clicks = np.array(
            [
                min(rng.poisson(p * s * rng.gamma(max(p * s, 1e-9)) / max(p * s, 1e-9)), s)
                for p, s in zip(rates, sizes, strict=True)
            ]
        )
        add("impressions", "", CLICKED, valid, int(clicks.sum()))
        for d, (size, clicked) in enumerate(zip(sizes, clicks, strict=True)):
            if size:
                add("impressions", f"d{d:02d}", DOMAIN, valid, int(size))
                add("impressions", f"d{d:02d}", CLICKED, int(size), int(clicked))
        for table, p in self.matched.items():
            add(table, table, MATCH, valid, self.draw_share(p, valid, 0.06))
            add(table, "", ROWS, valid // 7 + 100, valid // 7 + 100)
        total = int(clicks.sum() * 1.03)
        add("clicks", "", ROWS, total, total)
        add("clicks", "clicks", MATCH, total, self.draw_share(0.97, total, 0.1))
        add("clicks", "clicks", EARLY, total, self.draw_share(0.002, total, 0.3))
        for c, p in enumerate(self.unseen):
            grown = p + (0.9 - p) * np.exp(-k / 2)  # the first windows are short
            add("impressions", f"impressions.u{c}", UNSEEN, valid, self.draw_share(grown, valid, 0.1))
        return found
