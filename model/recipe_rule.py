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
_MIN_BATCH_SIZE, _MAX_BATCH_SIZE = 128, 2000
_FEW_ROWS = 32_000
"""Number of training rows below which smaller batches and more epochs help if clicks are rare."""
_FEW_BATCHES, _FEW_BATCH_SIZE = 250, 32
"""For few rows with rare clicks: the number of batches per epoch, and the minimum batch size."""
_SMALL_ROWS = 4_000_000
"""Number of training rows from which the batch size grows, before it is rounded to a power of two.

With fewer rows, a high click rate means two epochs.
"""
_HIGH_CLICK_RATE = 0.15
"""At this click rate or above, a second epoch helps."""


def choose_settings(size: TrainingSize) -> dict[str, Any]:
    """Choose model and trainer settings.

    - The batch size grows with the square root of the rows, from 128 to the paper's 2000. The network grows with the
      rows as well, and reaches the paper's at a billion.
    - With single-domain batches, the weights of a domain are updated in only a few of the steps. Their learning rate
      therefore grows with the number of domains.
    - In half of the rows with a new id, the id is masked, so that the model learns to predict new ids of the next day.
    - If clicks are frequent and rows are few, train for two epochs with dropout and lower learning rates. If clicks are
      rare, a second epoch only memorizes the clicks of individual users and items. With very few rows, one epoch has
      too few steps, so train for three, with smaller batches and a lower learning rate for embeddings.

    Args:
        size: The size of the training data.

    Returns:
        Settings by dotted key.
    """
    rows = size.used_rows
    batch_size = _MIN_BATCH_SIZE * math.sqrt(max(1.0, rows / _SMALL_ROWS))
    settings: dict[str, Any] = {
        "model.layers": _choose_layers(rows),
        "model.activation": "silu",
        "model.dim": 8 if rows < 100_000_000 else 16,
        "model.norm_eps": 0.1,
        "trainer.batch_size": min(_MAX_BATCH_SIZE, _round_to_power(batch_size)),
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
    if size.rows < _FEW_ROWS:
        settings |= {
            "trainer.batch_size": _round_to_power(max(_FEW_BATCH_SIZE, rows / _FEW_BATCHES)),
            "trainer.epochs": 3,
            "trainer.optimizer.embedding_lr": 0.0002,
        }
    return settings | {
        "trainer.optimizer.lr": 0.002,
        "trainer.optimizer.domain_lr": round(0.002 * min(10.0, max(1.0, size.domains / 2)), 6),
    }


def _round_to_power(size: float) -> int:
    """Round to a power of two."""
    return 1 << round(math.log2(size))


def _choose_layers(rows: int) -> list[int]:
    """Choose the hidden layers for a number of rows."""
    if rows < 10_000_000:
        return [128, 64]
    return [256, 128, 64] if rows < 1_000_000_000 else [512, 256, 128, 64, 32, 16]
