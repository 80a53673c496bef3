"""Files and folders on a file system or in an object store.

A local file is written under a temporary name, flushed to disk, and renamed. Object stores show a file only when it is
complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import fsspec


def open_folder(address: str) -> Path:
    """Return a folder as a path, which for a URL such as `s3a://bucket/models` reads and writes an object store.

    In an object store, folders exist while they contain files, and renaming a folder copies its files one by one.
    """
    if "://" not in address:
        return Path(address)
    from upath import UPath

    # Other processes write to the store, so cached listings may be out of date.
    return cast(Path, UPath(address, use_listings_cache=False))


def is_remote(path: Path) -> bool:
    """Return whether a path from `open_folder` is in an object store."""
    return "://" in str(path)


def remove_folder(folder: Path, last: str = "") -> None:
    """Delete a folder with its files, if it exists. In an object store, delete the file called `last` last."""
    if not is_remote(folder):
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return
    fs, path = fsspec.core.url_to_fs(str(folder), use_listings_cache=False)
    files = fs.find(path)
    for part in ([f for f in files if f != f"{path}/{last}"], [f for f in files if f == f"{path}/{last}"]):
        if part:
            fs.rm(part)


def copy_file(source: str, target: Path) -> None:
    """Copy a file, given by its path or URL."""
    with open_folder(source).open("rb") as file:
        if is_remote(target):
            target.write_bytes(file.read())  # unlike an open file, this leaves nothing if it is interrupted
            return
        with target.open("wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)


@contextmanager
def open_replacement(path: Path) -> Iterator[Path]:
    """Yield the path to write a file to. A local file replaces `path` when the block ends without an error."""
    if is_remote(path):
        yield path
        return
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically as UTF-8, and create its folder if needed."""
    if is_remote(path):
        path.write_text(text, encoding="utf-8")
        return
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
    sync_file(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, with sorted keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder and all files in it to disk, so that a later rename never publishes empty files."""
    if is_remote(folder):
        return
    for file in folder.rglob("*"):
        sync_file(file)
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Flush a file or folder to disk, if the file system supports it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems do not support fsync on folders
        pass
    finally:
        os.close(descriptor)
