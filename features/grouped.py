"""Sums by run and domain, as a task of Spark gathers them and hands them out in one batch of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from star_ctr.features.resampling import Ints

Name = tuple[str, str]
"""Run and domain."""


def codes(column: pa.Array) -> tuple[Ints, list[str]]:
    """Numbers of the values, and the values."""
    encoded = column.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def parts(kind: Ints, names: Sequence[Name]) -> Iterator[tuple[Name, slice]]:
    """Where each name's rows stand, of those that have any; `kind`: the place of a row's name, sorted."""
    cuts = np.searchsorted(kind, np.arange(len(names) + 1))
    for name, start, end in zip(names, cuts[:-1], cuts[1:], strict=True):
        if start < end:
            yield name, slice(start, end)


def as_batch(names: Sequence[Name], values: Sequence[Sequence[object]], schema: pa.Schema) -> pa.RecordBatch:
    """A row a name: run, domain, and then `values`, column by column."""
    columns = [[run for run, _ in names], [domain for _, domain in names], *values]
    arrays = [pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
