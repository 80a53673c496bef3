"""The scores that calibrate a run: those of earlier nights with final labels, before their own maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from scipy.special import expit, logit

from star_ctr.conf.contracts.dates import list_calibration_nights
from star_ctr.conf.contracts.domains import OTHER_NAME
from star_ctr.conf.contracts.run_id import hash_label_settings, make_run_id
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.label_records import LABEL_SETTINGS, WEIGHT
from star_ctr.jobs.io.label_records import PART as LABELS
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.calibration_maps import fit_calibration_maps
from star_ctr.model.training.calibration_maps import CalibrationMaps, LogitMap, ScoreBins, fit_maps
from tests.model.synthetic import LAYOUT
from tests.published import publish

NIGHT = "2026-01-09"
SHIFT = LogitMap(knots=[0.0], offsets=[0.5], slopes=[0.1, 0.1])
OWN_MAPS = CalibrationMaps(method="platt", nights=[], rows=1, clicks=1, maps={"1": SHIFT, OTHER_NAME: SHIFT})


@pytest.mark.parametrize(
    ("label", "is_refit", "newest"),
    [
        ("{column: clicked}", False, "2026-01-08"),
        ("{column: clicked}", True, "2026-01-09"),
        ("{window_hours: 24}", False, "2026-01-08"),
        ("{window_hours: 24}", True, "2026-01-08"),
        ("{window_hours: 30}", False, "2026-01-07"),
        ("{window_hours: 0.5}", True, "2026-01-08"),
    ],
)
def test_only_nights_with_final_labels_are_used(label: str, is_refit: bool, newest: str) -> None:
    settings = load("demo", [f"label={label}", "trainer.calibration.earlier_nights=2"])
    assert list_calibration_nights(settings, NIGHT, is_refit)[-1] == newest
    assert len(list_calibration_nights(settings, NIGHT, is_refit)) == 2
    none = load("demo", [f"label={label}", "trainer.calibration.method=none"])
    assert list_calibration_nights(none, NIGHT, is_refit) == []


def make_night(settings: Settings, ds: str, run_id: str, rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(-2.5, 1, rows)
    own = SHIFT.apply(x) if seed == 1 else x
    return pd.DataFrame(
        {
            "run_id": run_id, "attempt": 1, "ds": ds, "impression_id": [f"{ds}-{k}" for k in range(rows)],
            "user_id": "u", "domain": rng.choice(["1", "2"], rows, p=[0.8, 0.2]), "label": 0.0, "label_final": False,
            "score": expit(own), "base": x, "final": (rng.random(rows) < expit(x - 0.4)).astype(float),
            "is_final": rng.random(rows) < 0.9, "weight": np.maximum(rng.gamma(0.5, 1e9, rows) - 1e8, 0.0),
        }
    )  # fmt: skip


@pytest.mark.spark
@pytest.mark.parametrize("weight", [None, "w"])
def test_maps_are_fitted_on_final_labels_before_the_maps_of_earlier_runs(
    spark: SparkSession, tmp_path: Path, weight: str | None
) -> None:
    changes = [] if weight is None else [f"logs.impressions.weight={weight}"]
    settings = load("demo", [f"paths.warehouse={tmp_path}", "trainer.calibration.method=platt", *changes])
    store = WarehouseTables(settings, spark)
    assert fit_calibration_maps(settings, store, NIGHT) is None
    # Too old, used, used, the night itself, and three nights that must not be used: with labels of other settings,
    # with scores that differ from those of the trainer, and with scores that were not checked.
    nights = ["2025-12-20", "2026-01-07", "2026-01-08", NIGHT, "2026-01-06", "2026-01-05", "2026-01-04"]
    frames = [make_night(settings, ds, make_run_id(settings, ds), 4_000, k) for k, ds in enumerate(nights)]
    other_run = make_night(settings, "2026-01-08", make_run_id(settings, "2026-01-08") + "-other", 4_000, 9)
    scores = pd.concat([*frames, other_run])
    columns = ["run_id", "attempt", "ds", "impression_id", "user_id", "domain", "label", "label_final", "score"]
    store.replace("scores", spark.createDataFrame(scores[columns]).repartition(7), "true")
    columns = ["ds", "impression_id", "final", "is_final", *(["weight"] if weight else [])]
    labels = pd.concat(frames)[columns].rename(columns={"final": "label"})
    store.replace("labels", spark.createDataFrame(labels), "true")
    for k, ds in enumerate(nights):
        attempt = publish(settings, make_run_id(settings, ds), ds)
        job = {
            "run_id": attempt.run_id, "ds": ds, "split": "", "versions": {}, "folder": "", "code": "",
            "layout": LAYOUT.model_dump(mode="json"), "model": {}, "trainer": {}, "settings": {},
            "calibration_maps": OWN_MAPS.model_dump(mode="json") if k == 1 else None,
        }  # fmt: skip
        (attempt.folder / "job.json").write_text(pd.Series(job).to_json())
    definition = {LABEL_SETTINGS: hash_label_settings(settings)} | ({WEIGHT: weight} if weight else {})
    records = {ds: DayRecord("x", definition) for ds in nights} | {nights[4]: DayRecord("x", {LABEL_SETTINGS: "other"})}
    DayRecords(settings).write(LABELS, records)
    differences = {nights[5]: 0.1, nights[6]: None}
    runs = [(make_run_id(settings, ds), 1, differences.get(ds, 1e-7)) for ds in nights]
    store.replace(
        "runs", spark.createDataFrame(runs, "run_id string, attempt long, max_score_difference double"), "true"
    )
    found = fit_calibration_maps(settings, store, NIGHT)
    assert found is not None
    used = pd.concat(frames[1:3]).query("is_final")
    if weight:
        used = used.query("weight > 0").assign(
            weight=lambda u: u["weight"] * u["weight"].sum() / (u["weight"] ** 2).sum()
        )
        assert used["weight"].sum() < 0.6 * len(used)
    else:
        used = used.assign(weight=1.0)
    counts = (int(used["weight"].sum()), int((used["weight"] * used["final"]).sum()))
    assert (found.nights, found.rows, found.clicks) == (nights[1:3], *counts)
    used = used.assign(x=used["weight"] * used["base"], clicks=used["weight"] * used["final"])
    bins = {}
    for domain, part in used.groupby("domain"):
        # The bins are those of the scores, after the map of their run.
        grouped = part.assign(bin=np.floor(logit(part["score"]) * 4)).groupby(["ds", "bin"])
        sums = grouped[["x", "weight", "clicks"]].sum().reset_index()
        sums = sums.assign(x=sums["x"] / sums["weight"], rows=sums["weight"])
        age = (sums["ds"] == "2026-01-07").to_numpy(float)
        bins[str(domain)] = ScoreBins(age, *(sums[c].to_numpy(float) for c in ("x", "rows", "clicks")))
    want = fit_maps("platt", bins)
    assert found.maps.keys() == want.keys() == {"1", "2", OTHER_NAME}
    for domain in want:
        assert found.maps[domain].offsets == pytest.approx(want[domain].offsets, abs=1e-6)
        assert found.maps[domain].slopes == pytest.approx(want[domain].slopes, abs=1e-6)
    # With unequal weights, the scores are less informative, and the map is shrunk more.
    assert found.maps["1"].apply(np.array([-2.5])) == pytest.approx([-2.9], abs=0.12 if weight is None else 0.3)
    assert fit_calibration_maps(settings, store, NIGHT) == found
