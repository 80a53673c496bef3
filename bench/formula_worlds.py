"""Worlds for the benchmark of `star-ctr tune` in which a formula replaces training, so that a search takes a second.

The effect of a value on GAUC is drawn at random, such that most values are worse than the current one. The effect also
varies between nights and seeds, as in small logs: with standard deviations of 0.0015 and 0.005. Few changes gain more
than 0.003.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.load import load
from star_ctr.workflows.tune.nights import Nights, Prepared
from star_ctr.workflows.tune.runs import Run, RunMetrics

SEED_DEVIATION, NIGHT_DEVIATION, COMBINATION_DEVIATION = 0.005, 0.0015, 0.001
NIGHTS = Nights("2026-01-06", ["2026-01-03", "2026-01-04"], "2026-01-05")


@dataclass(frozen=True)
class FormulaRunner:
    """Returns the metrics of a run by a formula.

    Attributes:
        world: The seed of the world.
        can_gain: Whether some values are better than the current ones.
    """

    world: int
    can_gain: bool = True

    def __call__(self, run: Run, scores: Path | None) -> RunMetrics:
        """Return the metrics of a run. It has no scores, so that intervals are those over seeds."""
        values = dict(run.values)
        gain = sum(self._compute_effect(key, value) for key, value in values.items())
        if values:
            gain += self._draw(COMBINATION_DEVIATION, values) + self._draw(NIGHT_DEVIATION, values, run.pair.night)
        gain = gain if self.can_gain else min(gain, 0.0)
        gauc = 0.62 + gain + self._draw(SEED_DEVIATION, values, *run.pair)
        if scores:
            pq.write_table(pa.table({"user_id": pa.array([], pa.string())}), scores)
        return RunMetrics(0.66, gauc, 0.3, 1000.0, 1000.0, 1.0)

    def _compute_effect(self, key: str, value: object) -> float:
        """Return the mean effect of a value; that of a rate is a parabola of its logarithm."""
        if key.endswith("lr") and isinstance(value, float):
            best = self._draw(0.7, key)
            return -0.004 * ((math.log(value / 0.002) - best) ** 2 - best**2)
        return self._draw(0.002, key, json.dumps(value)) - 0.002

    def _draw(self, deviation: float, *parts: object) -> float:
        source = np.random.default_rng(int(hash_json([self.world, *parts], 16), 16))
        return float(source.normal(0.0, deviation))


def prepare_world(folder: Path, world: int) -> Prepared:
    """Return the inputs of a search in a world, whose current settings are those of conf/demo.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "world.yaml").write_text(
        f"extends: demo\nname: world{world}\npaths: {{warehouse: {json.dumps(str(folder / 'warehouse'))}}}\n"
        "trainer: {optimizer: {domain_lr: 0.002}}\n"
    )
    return Prepared(load(folder / "world.yaml"), NIGHTS, {})
