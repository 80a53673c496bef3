"""Read the schema and the number of rows of Avro files without decoding their rows."""

from __future__ import annotations

from typing import IO

_SYNC_BYTES = 16
"""Length of the marker after each block of rows."""


def read_schema(file: IO[bytes]) -> str:
    """Read the schema in the header of an Avro file.

    Args:
        file: The file, at its start. Afterwards it is at the end of the header.

    Returns:
        The schema as JSON.

    Raises:
        ValueError: The file is not an Avro file.
        EOFError: The file is truncated.
    """
    if file.read(4) != b"Obj\x01":
        raise ValueError("the file has no Avro header")
    schema = None
    while count := _read_long(file):
        if count < 0:  # a negative count is followed by the size of the block in bytes
            count = -count
            _read_long(file)
        for _ in range(count):
            name, value = file.read(_read_long(file)), file.read(_read_long(file))
            schema = str(value, "utf-8") if name == b"avro.schema" else schema
    file.read(_SYNC_BYTES)
    if schema is None:
        raise ValueError("its metadata contain no schema")
    return schema


def count_rows(file: IO[bytes]) -> int:
    """Count the rows of an Avro file, from the numbers at the start of its blocks."""
    read_schema(file)
    rows = 0
    while first := file.read(1):
        rows += _read_long(file, first)
        file.seek(_read_long(file) + _SYNC_BYTES, 1)
    return rows


def _read_long(file: IO[bytes], first: bytes = b"") -> int:
    """Read an integer in the variable-length zigzag encoding; `first` is its first byte, if it has been read."""
    number, shift = 0, 0
    while True:
        byte_read, first = first or file.read(1), b""
        if not byte_read:
            raise EOFError("the file is truncated")
        byte = byte_read[0]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1)
        shift += 7
