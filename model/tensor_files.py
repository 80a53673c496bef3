"""Read and write safetensors files on a file system or in an object store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from star_ctr.conf.files import is_remote

_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, as a little-endian integer of this many bytes."""


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file.

    Args:
        file: The file. If the process is killed, a local file may be incomplete.
        tensors: The tensors by name.
        metadata: Texts to store in the header.
    """
    if is_remote(file):
        file.write_bytes(save(dict(tensors), dict(metadata) if metadata else None))
    else:
        save_file(dict(tensors), str(file), dict(metadata) if metadata else None)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name."""
    found: dict[str, Tensor] = load(file.read_bytes()) if is_remote(file) else load_file(str(file))
    return found


def read_metadata(file: Path) -> dict[str, str]:
    """Read the texts in the header of a file."""
    if not is_remote(file):
        with safe_open(str(file), framework="pt") as opened:
            return dict(opened.metadata() or {})
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        return dict(json.loads(stream.read(length)).get("__metadata__", {}))
