"""Atomic file writes: a file is written under a temporary name, flushed to disk, and renamed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically as UTF-8, and create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Use a name per process, so that two processes that write the same file do not share a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, with sorted keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder and all files in it to disk, so that a later rename never publishes empty files."""
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, if the file system supports it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems do not support fsync on folders
        pass
    finally:
        os.close(descriptor)
