"""The function that scores Arrow batches in `batch_score`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, MapType, StringType, StructField, StructType

from star_ctr.features.encoding.scoring_rows import CARRIED
from star_ctr.features.point_in_time.scan_planner import ArrowFunction
from star_ctr.jobs.io.encoder_cache import load_encoder
from star_ctr.jobs.registry.models import ScoringModel
from star_ctr.jobs.registry.predictor_cache import describe_model, load_predictor
from star_ctr.jobs.score import make_map_column
from star_ctr.model.data.reader import unpack_columns

COLUMNS = ("run_id", "impression_id", "user_id", "domain", "score")
"""Columns of the output, before the carried input columns."""


def make_score_function(rows: DataFrame, model: ScoringModel, encoded: bool) -> ArrowFunction:
    """Make the function that scores Arrow batches of encoded rows, or encodes and scores rows of features.

    Returns:
        The function and the schema of its output: impression_id, user_id, domain, score, `outcome_scores` if the model
        predicts further outcomes, and CARRIED if `rows` has it. For encoded rows, it also has `reason` and `raw`; rows
        with a reason are not scored (their scores are NaN).
    """
    model_files, history = describe_model(rows.sparkSession, model.attempt), list(model.settings.history)
    vocabularies = model.vocabularies
    copied = [*(("reason", "raw") if encoded else ()), *((CARRIED,) if CARRIED in rows.columns else ())]
    first, names = COLUMNS[1:4], model_files.outcomes
    outputs = ["score", *(["outcome_scores"] if names else [])]

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        predictor = load_predictor(model_files)
        layout = predictor.layout
        for batch in batches:
            if batch.num_rows == 0:
                continue
            ids, domain = [batch.column(c) for c in first[:2]], batch.column("domain")
            valid = np.ones(batch.num_rows, bool)
            if encoded:
                valid = pc.is_null(batch.column("reason")).to_numpy(zero_copy_only=False)
                scorable = batch if valid.all() else batch.filter(pa.array(valid))
                ints, floats, domain_id = (scorable.column(c) for c in ("ints", "floats", "domain_id"))
            else:
                domain_id = layout.domain_index.get_numbers(domain)
                domain = pa.array(layout.domain_index.names).take(domain_id)
                # Features that read the domain see `other` for unknown domains, as in a split.
                table = pa.Table.from_batches([batch]).drop_columns(["domain"]).append_column("domain", domain)
                ints, floats = load_encoder(layout, vocabularies, history).encode(table)
            scores = np.full(batch.num_rows, np.nan)
            outcomes = np.full((batch.num_rows, len(names)), np.nan, np.float32)
            if valid.any():
                scores[valid], outcomes[valid] = predictor.predict_all(
                    *unpack_columns(ints, floats, layout), domain_id.to_numpy().astype(np.int32)
                )
            maps = [make_map_column(names, outcomes)] if names else []
            columns = [*ids, domain, pa.array(scores), *maps, *(batch.column(c) for c in copied)]
            yield pa.RecordBatch.from_arrays(columns, names=[*first, *outputs, *copied])

    fields = [*(StructField(name, StringType()) for name in first), StructField("score", DoubleType())]
    fields += [StructField("outcome_scores", MapType(StringType(), DoubleType()))] if names else []
    return ArrowFunction(score, StructType([*fields, *(rows.schema[c] for c in copied)]))
