"""Behaviour sequences of each row's user, as known at the cut: their columns, and what a sorted pass gathers."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from pyspark.sql.types import ArrayType, DoubleType, StringType, StructField

from star_ctr.conf.contracts.column_names import behaviour_column, gap_column, side_column
from star_ctr.conf.settings.features import Sequence, flat
from star_ctr.features.point_in_time.last_events import Wanted


def of_event(column: str) -> str:
    """The column of events that a sequence takes along: a row's own of that name need not be of its type."""
    return f"_e_{flat(column)}"


def wanted(sequence: Sequence, kinds: Seq[str]) -> Wanted:
    """What a pass gathers; `kinds`: those of the history, in order."""
    return Wanted(
        kinds=tuple(kinds.index(k) for k in sequence.of),
        names=tuple(sequence.of),
        length=sequence.length,
        columns=tuple(of_event(c) for c in sequence.columns),
        gap=sequence.gap,
        behaviour=sequence.behaviour,
    )


def sequence_fields(sequences: Seq[Sequence]) -> list[StructField]:
    """The columns, in the order in which the kernel gives them."""
    fields = []
    for s in sequences:
        fields += [StructField(side_column(s.name, c), ArrayType(StringType())) for c in s.columns]
        fields += [StructField(gap_column(s.name), ArrayType(DoubleType()))] if s.gap else []
        fields += [StructField(behaviour_column(s.name), ArrayType(StringType()))] if s.behaviour else []
    return fields
