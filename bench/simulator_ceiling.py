"""Measure how good a model of the simulated logs can be: AUC and GAUC of the true click rates, by domain.

Also prints the shares and click rates of the domains, compared with Table 1 of the paper.

    star-ctr simulate --conf conf/demo.yaml && python bench/simulator_ceiling.py --conf conf/demo.yaml
"""

from __future__ import annotations

import argparse

import pandas as pd
import pyarrow.dataset as ds

from star_ctr.conf.load import load
from star_ctr.features.evaluation.array_metrics import compute_array_metrics
from star_ctr.features.simulation.impressions import CLICK_RATES, SHARES


def read(root: str, log: str, columns: list[str]) -> pd.DataFrame:
    """Read columns of a simulated log."""
    files = ds.dataset(f"{root}/{log}", format="json" if log == "clicks" else "parquet", partitioning="hive")
    return files.to_table(columns=columns).to_pandas()


def read_labeled(root: str) -> pd.DataFrame:
    """Read the valid impressions with their true click rate (as `score`) and their label, without Spark."""
    shown = read(root, "impressions", ["impression_id", "user_id", "domain", "shown_at", "ds"])
    shown = shown.dropna().query("shown_at > 0").drop_duplicates()
    clicks = read(root, "clicks", ["impression_id", "clicked_at"])
    both = shown.merge(read(root, "truth", ["impression_id", "true_rate"]), on="impression_id")
    first = clicks.groupby("impression_id")["clicked_at"].min()
    delay = both["impression_id"].map(first) - both["shown_at"]
    return both.assign(label=delay.between(0, 24 * 3_600_000).astype(int), score=both["true_rate"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/demo.yaml", help="configuration")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override of a setting")
    arguments = parser.parse_args()
    rows = read_labeled(load(arguments.conf, arguments.overrides).paths.logs)
    last = rows["ds"].astype(str) == str(rows["ds"].max())
    print(
        f"{'domain':>8} {'rows':>8} {'share %':>8} {'paper':>6} {'click %':>8} {'paper':>6} {'AUC':>7} {'GAUC':>7} "
        f"{'last day: rows':>15} {'AUC':>7} {'GAUC':>7}"
    )
    paper = [
        *zip(SHARES, CLICK_RATES, strict=True),
        (100.0, sum(s * c for s, c in zip(SHARES, CLICK_RATES, strict=True)) / 100),
    ]
    for (name, part), (share, rate) in zip([*rows.groupby("domain"), ("overall", rows)], paper, strict=True):
        newest = part[last.loc[part.index]]
        print(
            f"{name:>8} {len(part):>8} {100 * len(part) / len(rows):8.2f} {share:6.2f} {100 * part['label'].mean():8.2f} "
            f"{rate:6.2f} {format_ceiling(part)} {len(newest):>15} {format_ceiling(newest)}"
        )


def format_ceiling(rows: pd.DataFrame) -> str:
    """Return AUC and GAUC of the true click rates as text; dashes if there is only one class."""
    if rows["label"].nunique() < 2:
        return f"{'-':>7} {'-':>7}"
    label, score = rows["label"].to_numpy(float), rows["score"].to_numpy()
    found = compute_array_metrics(rows["user_id"].to_numpy(), label, score)
    gauc = float("nan") if found.gauc is None else found.gauc
    return f"{found.auc:7.4f} {gauc:7.4f}"


if __name__ == "__main__":
    main()
