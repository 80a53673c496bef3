"""Combine the values of several columns into one value (a feature cross)."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

SEPARATOR, ESCAPE = "|", "\\"
"""The text between the parts of a combined value, and the escape of either text within a part."""


def combine_values(columns: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Array | pa.ChunkedArray:
    r"""Combine the values of columns row by row; a single column is returned unchanged.

    The parts are joined by `|`. Within a part, `|` is written as `\|`, and a backslash twice, so that different
    combinations have different values.

    Args:
        columns: At least one column of text, each with n values.

    Returns:
        n values; null if one of the parts is null.
    """
    if len(columns) == 1:
        return columns[0]
    parts = []
    for column in columns:
        escaped = pc.replace_substring(column, ESCAPE, ESCAPE + ESCAPE)
        parts.append(pc.replace_substring(escaped, SEPARATOR, ESCAPE + SEPARATOR))
    return pc.binary_join_element_wise(*parts, SEPARATOR, null_handling="emit_null")
