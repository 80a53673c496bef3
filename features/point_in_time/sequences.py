"""Columns and scan plans of behaviour sequences: the last events of each row's user before the cut."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from pyspark.sql.types import ArrayType, DoubleType, StringType, StructField

from star_ctr.conf.contracts.column_names import name_behaviour_column, name_gap_column, name_side_column
from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.settings.features import Sequence
from star_ctr.features.point_in_time.last_events import SequencePlan


def name_event_column(column: ColumnRef) -> str:
    """Return the name of the event column with the values of a sequence.

    It has a prefix because query rows may have a column of the same name and another type.
    """
    return f"_e_{column.flat}"


def plan_sequence(sequence: Sequence, first_bit: int) -> SequencePlan:
    """Return what a scan collects for a sequence.

    Args:
        sequence: The declared sequence.
        first_bit: Number of the bit of its first kind in KIND_BITS.
    """
    return SequencePlan(
        kinds=tuple(range(first_bit, first_bit + len(sequence.of))),
        names=tuple(sequence.of),
        length=sequence.length,
        columns=tuple(name_event_column(c) for c in sequence.columns),
        gap=sequence.gap,
        behaviour=sequence.behaviour,
    )


def list_sequence_fields(sequences: Seq[Sequence]) -> list[StructField]:
    """Return the fields of the columns of sequences, in the order in which `LastEvents` returns them."""
    fields = []
    for s in sequences:
        fields += [StructField(name_side_column(s.name, c), ArrayType(StringType())) for c in s.columns]
        fields += [StructField(name_gap_column(s.name), ArrayType(DoubleType()))] if s.gap else []
        fields += [StructField(name_behaviour_column(s.name), ArrayType(StringType()))] if s.behaviour else []
    return fields
