"""Making E_p and Var_p of partitioned normalization true, with the weights frozen.

Moving moments lag behind embeddings that still move, and a small domain sees too few batches for any
momentum. Before evaluation and export each domain's moments are taken anew over training rows (eq. 4 stays as it
is; its moments become those of the final weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from star_ctr.conf.layout import OTHER_DOMAIN, Layout
from star_ctr.model.plan import DataFile
from star_ctr.model.star import Star
from star_ctr.model.stream import read_files


@torch.no_grad()
def make_moments_true(
    model: Star, files: Sequence[DataFile], layout: Layout, rows_a_domain: int, prior_rows: float, device: torch.device
) -> dict[int, int]:
    """Set every domain's moments to those of z over up to `rows_a_domain` of its rows; returns the rows used.

    A domain's moments count as many more rows as `prior_rows` of all domains together: those of a dozen rows
    alone would blow up whatever did not vary among them. A domain without rows gets those of all.
    """
    features = model.norm.mean.shape[1]
    count = torch.zeros(model.domains, dtype=torch.float64)
    total = torch.zeros(model.domains, features, dtype=torch.float64)
    squares = torch.zeros(model.domains, features, dtype=torch.float64)
    used: dict[int, int] = {}
    chosen = []
    for file in files:
        if used.get(file.domain, 0) < rows_a_domain:
            chosen.append(file)
            used[file.domain] = used.get(file.domain, 0) + file.rows
    for file, rows in zip(chosen, read_files(chosen, layout), strict=True):
        for start in range(0, len(rows), 4096):
            part = slice(start, start + 4096)
            ints = torch.from_numpy(rows.ints[part].copy()).to(device)
            z = model.inputs(ints, torch.from_numpy(rows.floats[part].copy()).to(device)).double().cpu()
            count[file.domain] += len(z)
            total[file.domain] += z.sum(0)
            squares[file.domain] += z.square().sum(0)
    if count.sum() == 0:
        return used
    pooled_mean = total.sum(0) / count.sum()
    pooled_square = squares.sum(0) / count.sum()
    weight = (count + prior_rows).clamp(min=1e-9)[:, None]
    mean = (total + prior_rows * pooled_mean) / weight
    square = (squares + prior_rows * pooled_square) / weight
    empty = count == 0
    mean[empty], square[empty] = pooled_mean, pooled_square
    model.norm.mean.copy_(mean)
    model.norm.var.copy_((square - mean.square()).clamp(min=0))
    assert OTHER_DOMAIN == 0
    return used
