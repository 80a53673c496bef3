"""Encode rows of `features` in Spark workers, for the split and for scoring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from star_ctr.conf.contracts.column_names import name_outcome_label
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.settings.root import Settings
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.jobs.io.encoder_cache import load_encoder

ENCODED_SCHEMA = (
    "impression_id string, user_id string, day string, label float, label_final boolean, domain_id int, "
    "ints binary, floats binary, part string, domain string, domain_number int"
)
"""Schema of encoded rows: `ints` and `floats` as in `Layout`, `day` of the row, and `part` train or test.

`domain_number` equals `domain_id`. It is the partition column, because names of folders cannot contain all characters.
Rows with weights also have the column `weight`, and rows with further outcomes the binary column `outcomes`.
"""


def encode(settings: Settings, rows: DataFrame, layout: Layout, files: list[str]) -> DataFrame:
    """Encode rows of `features`.

    Args:
        settings: The settings of the data set.
        rows: Rows of `features`, with `label`, `label_final`, `part` and the outcomes of the layout; optionally with
            `weight`.
        layout: The layout of the encoded rows.
        files: The Parquet files of the vocabularies, which the workers read.

    Returns:
        Rows with the schema ENCODED_SCHEMA, with `weight` if `rows` have it, and with `outcomes` if the layout has any.
    """
    history = list(settings.history)
    weights = ["weight"] if "weight" in rows.columns else []
    outcomes = [name_outcome_label(name) for name in layout.outcomes]

    def encode_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        encoder = load_encoder(layout, files, history)
        for batch in batches:
            table = pa.Table.from_batches([batch])
            ints, floats = encoder.encode(table)
            domains = table["domain"].to_pylist()
            numbers = {domain: layout.domain_index.get_number(domain) for domain in set(domains)}
            domain_ids = pa.array([numbers[d] for d in domains], type=pa.int32())
            yield pa.RecordBatch.from_arrays(
                [
                    *(table[name].combine_chunks() for name in ("impression_id", "user_id", "ds")),
                    table["label"].combine_chunks().cast(pa.float32()),
                    table["label_final"].combine_chunks(),
                    domain_ids,
                    ints,
                    floats,
                    *(table[name].combine_chunks() for name in ("part", "domain")),
                    domain_ids,
                    *(table[name].combine_chunks() for name in weights),
                    *([_pack_outcomes(table, outcomes)] if outcomes else []),
                ],
                names=[
                    "impression_id", "user_id", "day", "label", "label_final", "domain_id", "ints", "floats", "part",
                    "domain", "domain_number", *weights, *(["outcomes"] if outcomes else []),
                ],
            )  # fmt: skip

    schema = ENCODED_SCHEMA + (", weight double" if weights else "") + (", outcomes binary" if outcomes else "")
    return rows.mapInArrow(encode_batches, schema)


def _pack_outcomes(table: pa.Table, columns: list[str]) -> pa.Array:
    """Pack the outcomes of each row into bytes, as `pack_rows` does; one that is not known is NaN."""
    values = [table[name].cast(pa.float32()).fill_null(float("nan")).to_numpy() for name in columns]
    return pack_rows(np.column_stack(values))
