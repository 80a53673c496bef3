"""Bins of scores for the reliability curve and the expected calibration error (ECE).

The bins are fixed, so that curves of different days and domains can be compared and added up. CTRs are small, so the
bins are narrow near 0: with bins of equal width, most rows would be in the first one.
"""

from __future__ import annotations

from functools import reduce
from operator import add

from pyspark.sql import Column
from pyspark.sql import functions as F

_SMALL = tuple(round(k * 10.0**-power, 10) for power in (5, 4, 3, 2) for k in (1, 1.5, 2, 3, 5, 7))
BIN_EDGES = (0.0, *_SMALL, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Lower bounds of the bins, in ascending order. A score belongs to the last bin whose lower bound it reaches."""
RELIABILITY = "reliability"
"""Column with the reliability curve."""


def find_bin(score: Column) -> Column:
    """Return the lower bound of the bin of a score in [0, 1]."""
    reached = reduce(add, ((score >= edge).cast("int") for edge in BIN_EDGES))
    return F.element_at(F.array(*(F.lit(edge) for edge in BIN_EDGES)), reached)
