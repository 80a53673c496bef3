"""Train LightGBM on the encoded rows of the split, and write its scores for `star-ctr compare --scores lightgbm=FILE`.

1. Read the rows of the split. The features are the domain and all single ids as categories, all numbers, and the
   lengths of the sequences (a tree cannot use their contents).
2. Choose the settings: the best of `--trials` random draws on the nights of `--search`, by the mean of AUC and GAUC.
   `star-ctr tune --trials` can have the same number of trials for each network.
3. Train each night of `--nights` with each seed, and score its test rows.

    python bench/lightgbm_scores.py --search 2022-04-29,2022-04-30 --nights 2022-05-03,2022-05-04,2022-05-05
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
from rich.progress import track

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.encoded_row import Layout, SplitPartition
from star_ctr.conf.load import load
from star_ctr.features.evaluation.array_metrics import compute_array_metrics
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.parity_sample import read_encoded_rows

SPACE: dict[str, list[Any]] = {
    "learning_rate": [0.03, 0.05, 0.1],
    "num_leaves": [31, 63, 127],
    "min_data_in_leaf": [50, 200, 800],
    "feature_fraction": [0.5, 0.8],
    "lambda_l2": [0.0, 10.0, 50.0],
    "rounds": [200, 400, 800],
    "cat_smooth": [10.0, 50.0],
}
"""The values to search, by setting."""
FIRST = {
    "learning_rate": 0.05, "num_leaves": 63, "min_data_in_leaf": 200, "feature_fraction": 0.8, "lambda_l2": 10.0,
    "rounds": 400, "cat_smooth": 10.0,
}  # fmt: skip
"""Settings of the first trial; also used if there is no search."""
DEFAULTS: dict[str, Any] = {"rounds": 100}
"""LightGBM's defaults."""


def draw_trials(count: int) -> list[dict[str, Any]]:
    """Return the settings of the trials of a search: `FIRST`, and random draws from `SPACE`."""
    rng = random.Random(0)
    return [FIRST, *({key: rng.choice(values) for key, values in SPACE.items()} for _ in range(count - 1))]


def rows_of(table: str, night: str, part: str) -> tuple[pd.DataFrame, np.ndarray, list[int]]:
    """Read the rows of a night.

    Args:
        table: The path of the table `split`.
        night: The night as YYYY-MM-DD.
        part: The part of the split: `train` or `test`.

    Returns:
        The key columns, the matrix of features, and the indices of the features that are categories.
    """
    version, metadata = read_split_commit(table, night)
    layout = Layout.model_validate(metadata["layout"])
    keys, features = [], []
    for file in list_live_files(table, version, [SplitPartition(night, part)], layout):
        file_keys, rows = read_encoded_rows(file, layout)
        keys.append(file_keys.to_pandas())
        lengths = [rows.ints[:, [offset]] for _, offset in layout.iter_sequence_offsets()]
        ids = rows.ints[:, : len(layout.fields)]
        features.append(np.hstack([rows.domain[:, None], ids, *lengths, rows.floats]).astype(np.float32))
    return pd.concat(keys, ignore_index=True), np.concatenate(features), list(range(1 + len(layout.categorical)))


def scores(table: str, night: str, settings: dict[str, Any], seeds: int) -> pd.DataFrame:
    """Train on the training days of a night and score its test rows, once per seed.

    Args:
        table: The path of the table `split`.
        night: The night as YYYY-MM-DD.
        settings: The settings of LightGBM, and the number of trees as `rounds`.
        seeds: The number of seeds.

    Returns:
        The key columns of the test rows with `night`, `seed` and `score`.
    """
    keys, x, categories = rows_of(table, night, "train")
    test, x_test, _ = rows_of(table, night, "test")
    parameters = {k: v for k, v in settings.items() if k != "rounds"}
    parameters |= {"objective": "binary", "verbosity": -1, "max_cat_to_onehot": 16}
    data = lgb.Dataset(x, keys["label"], categorical_feature=categories, free_raw_data=False)
    scored = []
    for seed in range(seeds):
        model = lgb.train({**parameters, "seed": seed, "bagging_freq": 0}, data, settings["rounds"])
        scored.append(test.assign(night=night, seed=seed, score=model.predict(x_test)))
    return pd.concat(scored, ignore_index=True)


def compute_metrics(rows: pd.DataFrame) -> tuple[float, float]:
    """Return AUC and GAUC of rows with `user_id`, `label` and `score`."""
    label = rows["label"].to_numpy(float)
    found = compute_array_metrics(rows["user_id"].to_numpy(), label, rows["score"].to_numpy())
    assert found.auc is not None, "all rows have the same label"
    assert found.gauc is not None, "no user has both labels"
    return found.auc, found.gauc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/kuairand.yaml", help="configuration")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override of a setting")
    parser.add_argument(
        "--search", default="", help="nights to choose settings on, separated by commas; default: no search"
    )
    parser.add_argument(
        "--defaults", action="store_true", help="use LightGBM's defaults with 100 trees, instead of the first trial"
    )
    parser.add_argument("--trials", type=int, default=6, help="number of settings to try in the search")
    parser.add_argument("--nights", required=True, help="nights to train and score, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds per night")
    parser.add_argument("--out", default="build/lightgbm.parquet", help="file for the scores")
    arguments = parser.parse_args()
    table = Warehouse(load(arguments.conf, arguments.overrides).paths).table("split")
    trials = draw_trials(arguments.trials)
    best, best_value = DEFAULTS if arguments.defaults else FIRST, -1.0
    for trial in track(trials if arguments.search else [], "searching"):
        found = [scores(table, night, trial, 1) for night in arguments.search.split(",")]
        values = [compute_metrics(f) for f in found]
        value = float(np.mean(values))
        print(f"{np.mean(values, axis=0).round(4)} {json.dumps(trial)}", flush=True)
        if value > best_value:
            best, best_value = trial, value
    print(f"settings: {json.dumps(best)}")
    nights = track(arguments.nights.split(","), "training")
    result = pd.concat([scores(table, night, best, arguments.seeds) for night in nights], ignore_index=True)
    for night, rows in result.groupby("night"):
        by_seed = [compute_metrics(r) for _, r in rows.groupby("seed")]
        auc, gauc = np.mean(by_seed, axis=0)
        pcoc = rows["score"].sum() / rows["label"].astype(float).sum()
        print(f"{night} AUC {auc:.4f} GAUC {gauc:.4f} PCOC {pcoc:.2f}")
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    result[["impression_id", "seed", "score"]].to_parquet(arguments.out, index=False)


if __name__ == "__main__":
    main()
