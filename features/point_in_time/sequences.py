"""Behaviour sequences of each row's user, as known at the cut: their columns, and what a sorted pass gathers."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from pyspark.sql.types import ArrayType, DoubleType, StringType, StructField

from star_ctr.conf.contracts.column_names import name_behaviour_column, name_gap_column, name_side_column
from star_ctr.conf.settings.features import Sequence, flatten_column_name
from star_ctr.features.point_in_time.last_events import SequencePlan


def name_event_column(column: str) -> str:
    """The column of events that a sequence takes along: a row's own of that name need not be of its type."""
    return f"_e_{flatten_column_name(column)}"


def plan_sequence(sequence: Sequence, kinds: Seq[str]) -> SequencePlan:
    """What a pass gathers; `kinds`: those of the history, in order."""
    return SequencePlan(
        kinds=tuple(kinds.index(k) for k in sequence.of),
        names=tuple(sequence.of),
        length=sequence.length,
        columns=tuple(name_event_column(c) for c in sequence.columns),
        gap=sequence.gap,
        behaviour=sequence.behaviour,
    )


def list_sequence_fields(sequences: Seq[Sequence]) -> list[StructField]:
    """The columns, in the order in which the kernel gives them."""
    fields = []
    for s in sequences:
        fields += [StructField(name_side_column(s.name, c), ArrayType(StringType())) for c in s.columns]
        fields += [StructField(name_gap_column(s.name), ArrayType(DoubleType()))] if s.gap else []
        fields += [StructField(name_behaviour_column(s.name), ArrayType(StringType()))] if s.behaviour else []
    return fields
