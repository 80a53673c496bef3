"""Whether permutation importance finds the features that the simulator uses, and none that are noise.

Trains STAR in the worlds of `planted_domains.py`. Their impression logs have two columns of noise. The values are
exchanged by the functions of `star-ctr explain`; the metrics are computed with NumPy, independently of it.

    python bench/planted_domains.py --worlds 11 12 13 && python bench/planted_importance.py --worlds 11 12 13
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from planted_domains import estimate, hash_users, make_jobs

from star_ctr.features.evaluation.paired_differences import compute_mean_difference
from star_ctr.features.evaluation.significance import reject_holm
from star_ctr.jobs.tools.encoded_features import FEATURE, list_parts
from star_ctr.jobs.tools.explain import exchange, permute_in_domains
from star_ctr.jobs.tools.run_estimates import METRICS, RowSubset
from star_ctr.model import offline
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.parity_sample import read_encoded_rows
from star_ctr.model.predictor import Predictor
from star_ctr.workflows.domains.effects import JOINT

ALL_ROWS = RowSubset("", is_rest=True)


def compute_importance(conf: Path) -> pd.DataFrame:
    """Return the importance of each feature of a world, with its interval and p-value, by metric."""
    job = make_jobs(conf, [], 1)[JOINT, 0]
    if not offline.is_trained(job):
        offline.train_and_score(job)
    predictor = Predictor(job.path)
    files = list_live_files(job.split, job.versions["split"], job.test_partitions, job.layout)
    keys, parts = zip(*(read_encoded_rows(file, job.layout) for file in files), strict=True)
    table = pa.concat_tables([k.select(["user_id", "domain", "label"]) for k in keys])
    rows = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    rows["key"] = hash_users(rows["user_id"])
    ints, floats, domains = (np.concatenate([getattr(p, name) for p in parts]) for name in ("ints", "floats", "domain"))

    def score(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        rows["score"] = predictor.predict(a, b, domains).astype(np.float64)
        found = estimate(rows, ALL_ROWS)
        users.update({metric: found.gauc_users if metric == "gauc" else found.users for metric in METRICS})
        return found.samples

    users: dict[str, float] = {}
    original = score(ints, floats)
    results = []
    for k, part in enumerate(list_parts(job.settings["features"], job.layout)):
        if part.kind != FEATURE:
            continue
        order = permute_in_domains(domains, np.random.default_rng(k))
        permuted = score(*exchange(part, ints, floats, order))
        for metric in METRICS:
            lost = (original[metric] - permuted[metric]) * (-1 if metric == "log_loss" else 1)
            found = compute_mean_difference(lost[None], users[metric], 0.95)
            assert found is not None
            results.append((part.name, metric, found.value, found.low, found.high, found.p))
    table = pd.DataFrame(results, columns=["feature", "metric", "value", "low", "high", "p"])
    table["significant"] = table.groupby("metric")["p"].transform(lambda p: reject_holm(list(p), 0.05))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[11, 12, 13], help="seeds of the worlds")
    parser.add_argument("--impressions", type=int, default=200_000, help="impressions of a world, in all domains")
    parser.add_argument("--folder", type=Path, default=Path("build/planted"), help="folder of planted_domains.py")
    arguments = parser.parse_args()
    folders = [arguments.folder.absolute() / f"{w}-{arguments.impressions}" for w in arguments.worlds]
    found = pd.concat([compute_importance(folder / "world.yaml").assign(world=folder.name) for folder in folders])
    print(f"{'':13} mean importance, worlds with an interval above 0, and with Holm's correction, of {len(folders)}")
    for feature, own in found.groupby("feature", sort=False):
        texts = []
        for metric in METRICS:
            rows = own[own["metric"] == metric]
            above, tested = (rows["low"] > 0).sum(), (rows["significant"] & (rows["value"] > 0)).sum()
            texts.append(f"{metric} {rows['value'].mean():+.5f} {above:2} {tested:2}")
        print(f"{feature:13} {'   '.join(texts)}")


if __name__ == "__main__":
    main()
