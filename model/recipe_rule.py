"""The rule that chooses model and trainer settings from the size of the training data.

The paper's settings (§4.1) are tuned for billions of rows. On smaller data, its batch size gives too few steps. The
rule was tuned on simulated logs of 20,000 to 3 million impressions, and on the nights of 2022-04-29 and 2022-04-30 of
KuaiRand. docs/training.md lists the results.
"""

from __future__ import annotations

import math
from typing import Any

from star_ctr.conf.recipe import TrainingSize

RULE_VERSION = 2
_FEW_STEPS = 250
"""Number of steps per epoch below which the batch size shrinks."""
_MIN_BATCH_SIZE, _USUAL_BATCH_SIZE, _MAX_BATCH_SIZE = 32, 128, 2000
_FEW_ROWS = _FEW_STEPS * _USUAL_BATCH_SIZE
"""Number of training rows below which more epochs help at any click rate, if embeddings learn slowly."""
_SMALL_ROWS = 4_000_000
"""Number of training rows from which the batch size grows, before it is rounded to a power of two.

With fewer rows, a high click rate means two epochs.
"""
_HIGH_CLICK_RATE = 0.15
"""At this click rate or above, a second epoch helps."""


def choose_settings(size: TrainingSize) -> dict[str, Any]:
    """Choose model and trainer settings.

    - The batch size grows with the square root of the rows, from 128 to the paper's 2000. With very few rows it is
      smaller, so that there are enough steps. The network grows with the rows as well, and reaches the paper's at a
      billion.
    - With single-domain batches, the weights of a domain are updated in only a few of the steps. Their learning rate
      therefore grows with the number of domains.
    - In half of the rows with a new id, the id is masked, so that the model learns to predict new ids of the next day.
    - If clicks are frequent and rows are few, train for two epochs with dropout and lower learning rates. If clicks are
      rare, a second epoch only memorizes the clicks of individual users and items, except with very few rows: then
      train for three epochs, with a lower learning rate for embeddings.

    Args:
        size: The size of the training data.

    Returns:
        Settings by dotted key.
    """
    rows = size.used_rows
    settings: dict[str, Any] = {
        "model.layers": _choose_layers(rows),
        "model.activation": "silu",
        "model.dim": 8 if rows < 100_000_000 else 16,
        "model.norm_eps": 0.1,
        "trainer.batch_size": _choose_batch_size(rows),
        "trainer.optimizer.ema_decay": 0.99,
        "trainer.data.new_ids_as_unknown": 0.5,
    }
    if size.clicks >= _HIGH_CLICK_RATE * size.rows and rows < _SMALL_ROWS:
        return settings | {
            "model.dropout": 0.2,
            "trainer.epochs": 2,
            "trainer.optimizer.lr": 0.001,
            "trainer.optimizer.embedding_lr": 0.0003,
        }
    if rows < _FEW_ROWS:
        settings |= {"trainer.epochs": 3, "trainer.optimizer.embedding_lr": 0.0002}
    return settings | {
        "trainer.optimizer.lr": 0.002,
        "trainer.optimizer.domain_lr": round(0.002 * min(10.0, max(1.0, size.domains / 2)), 6),
    }


def _choose_batch_size(rows: int) -> int:
    """Choose the batch size for a number of rows: a power of two, or the paper's."""
    size = _USUAL_BATCH_SIZE * min(rows / _FEW_ROWS, 1.0) * math.sqrt(max(rows / _SMALL_ROWS, 1.0))
    return min(_MAX_BATCH_SIZE, 1 << round(math.log2(max(size, _MIN_BATCH_SIZE))))


def _choose_layers(rows: int) -> list[int]:
    """Choose the hidden layers for a number of rows."""
    if rows < 10_000_000:
        return [128, 64]
    return [256, 128, 64] if rows < 1_000_000_000 else [512, 256, 128, 64, 32, 16]
