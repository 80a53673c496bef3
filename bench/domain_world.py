"""Splits whose labels come from a known model of many domains, for benchmarks of quality.

A hidden layer with the weights A_p = A (1 + E_p) of domain p follows the numbers of a row. To its output are added an
interaction of user and item, the popularity of the item, and the click rate of the domain. Domains therefore share most
of their structure. They differ by E_p, which either has rank 1, or has independent entries of the same variance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import write_deltalake

from star_ctr.conf.contracts.encoded_row import IdField, Layout, NumericField, NumericSource
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.data.reader import Rows

DIFFERENCES = ("low_rank", "unstructured")
"""How domains differ, see `World`."""
NUMBERS, HIDDEN, USERS, ITEMS, FACTORS = 16, 12, 1000, 1000, 4


class World:
    """A known model of clicks in domains of different sizes.

    Args:
        domains: The number of domains; domain p has a share of the rows in proportion to 1 / p.
        difference: How domains differ: `low_rank` or `unstructured`.
        seed: The seed.
        size: The standard deviation of the entries of E_p.
    """

    def __init__(self, domains: int, difference: str, seed: int, size: float = 0.5) -> None:
        rng = np.random.default_rng([seed, domains])
        self.share = 1 / np.arange(1, domains + 1)
        self.share /= self.share.sum()
        self.weight = 1.5 * rng.normal(size=(NUMBERS, HIDDEN)) / NUMBERS**0.5
        self.out = 2.0 * rng.normal(size=HIDDEN) / HIDDEN**0.5
        self.user, self.item = 0.5 * rng.normal(size=(USERS, FACTORS)), 0.7 * rng.normal(size=(ITEMS, FACTORS))
        self.popularity, self.bias = 0.5 * rng.normal(size=ITEMS), 0.5 * rng.normal(size=domains) - 1.5
        if difference == "low_rank":
            e = rng.normal(size=(domains, NUMBERS, 1)) * rng.normal(size=(domains, 1, HIDDEN))
        else:
            e = rng.normal(size=(domains, NUMBERS, HIDDEN))
        self.weight_p = self.weight * (1 + size * e)

    def draw(self, rows: int, seed: int) -> tuple[Rows, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Draw rows, sorted by domain, with at least two of each domain.

        Args:
            rows: The approximate number of rows n.
            seed: The seed.

        Returns:
            The rows, their true logits, and the logits without E_p, both (n,). The first id of a row is its user.
        """
        rng = np.random.default_rng(seed)
        sizes = np.maximum(2, (rows * self.share).astype(int))
        p = np.repeat(np.arange(len(sizes)), sizes)
        user = rng.integers(0, USERS, len(p))
        item = (ITEMS ** rng.random(len(p))).astype(int) - 1
        x = rng.normal(size=(len(p), NUMBERS))
        rest = (self.user[user] * self.item[item]).sum(1) + self.popularity[item] + self.bias[p]
        parts = zip(np.split(x, np.cumsum(sizes)[:-1]), self.weight_p, strict=True)
        logit = np.concatenate([np.tanh(part @ weight) @ self.out for part, weight in parts]) + rest
        label = (rng.random(len(p)) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        ints = np.column_stack([user, item]).astype(np.int32) + 2
        encoded = Rows(ints, x.astype(np.float32), label, (p + 1).astype(np.int32))
        return encoded, logit, np.tanh(x @ self.weight) @ self.out + rest


def make_layout(domains: int) -> Layout:
    """Return the layout of the rows of a world."""
    return Layout(
        ds="2026-01-02", domains=[f"d{p:04d}" for p in range(1, domains + 1)],
        embeddings={"user": USERS + 2, "item": ITEMS + 2},
        categorical=[IdField(name=name, column=name, embedding=name) for name in ("user", "item")], buckets=[],
        numeric=[NumericField(name=f"n{i}", source=NumericSource(column=f"n{i}")) for i in range(NUMBERS)],
        sequences=[],
    )  # fmt: skip


def write_split(table: str, layout: Layout, rows: Rows, part: str) -> None:
    """Append rows to a split."""
    n = len(rows)
    columns = {
        "impression_id": [f"{part}-{i:09d}" for i in range(n)], "user_id": [f"u{u}" for u in rows.ints[:, 0]],
        "day": ["2026-01-01"] * n, "label": rows.label, "label_final": [True] * n, "domain_id": rows.domain,
        "ints": pack_rows(rows.ints), "floats": pack_rows(rows.floats), "ds": [layout.ds] * n, "part": [part] * n,
        "domain": np.array(layout.domains)[rows.domain - 1], "domain_number": rows.domain,
    }  # fmt: skip
    write_deltalake(table, pa.table(columns), mode="append", partition_by=["ds", "part", "domain_number"])
