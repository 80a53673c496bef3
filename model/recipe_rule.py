"""The rule that chooses model and trainer settings by the size of the training data.

The settings of the paper (§4.1) are for billions of rows. With fewer rows, they take too few steps. The rule was found
on simulated logs of 20,000 to 3 million impressions, and on the nights of 2022-04-29 and 2022-04-30 of KuaiRand.
docs/training.md lists the results.
"""

from __future__ import annotations

import math
from typing import Any

from star_ctr.conf.recipe import TrainingSize

RULE = 1
"""Version of the rule."""
_SMALL_BATCH, _PAPER_BATCH = 128, 2000
_SMALL_ROWS = 4_000_000
"""Up to this number of training rows, batches have the smallest size."""
_MANY_CLICKS = 0.15
"""From this click rate on, each row is informative enough for a second epoch."""


def choose_values(size: TrainingSize) -> dict[str, Any]:
    """Choose model and trainer settings.

    - The batch size grows with the square root of the rows, from 128 to the paper's 2000. The layers grow with it, to
      the paper's at a billion rows.
    - With batches of one domain, the weights of a domain are updated in few of the steps. Their learning rate
      therefore grows with the number of domains.
    - With frequent clicks, the model is trained for two epochs, with lower learning rates and dropout. With rare
      clicks, a second epoch would only memorize the clicks of single users and items.

    Args:
        size: The size of the training data.

    Returns:
        Settings by dotted key.
    """
    batch = _SMALL_BATCH * math.sqrt(max(1.0, size.rows / _SMALL_ROWS))
    values: dict[str, Any] = {
        "model.layers": _choose_layers(size.rows),
        "model.activation": "silu",
        "model.dim": 8 if size.rows < 100_000_000 else 16,
        "model.norm_eps": 0.1,
        "trainer.batch_size": min(_PAPER_BATCH, 1 << round(math.log2(batch))),
        "trainer.optimizer.ema_decay": 0.99,
    }
    if size.clicks >= _MANY_CLICKS * size.rows and size.rows < _SMALL_ROWS:
        return values | {
            "model.dropout": 0.2,
            "trainer.epochs": 2,
            "trainer.optimizer.lr": 0.001,
            "trainer.optimizer.embedding_lr": 0.0003,
        }
    return values | {
        "trainer.optimizer.lr": 0.002,
        "trainer.optimizer.domain_lr": round(0.002 * min(10.0, max(1.0, size.domains / 2)), 6),
    }


def _choose_layers(rows: int) -> list[int]:
    """Choose the hidden layers by the number of rows."""
    if rows < 10_000_000:
        return [128, 64]
    return [256, 128, 64] if rows < 1_000_000_000 else [512, 256, 128, 64, 32, 16]
