"""Row encoders in Spark workers. The vocabulary index is built once per machine, and memory-mapped by its workers.

The index of 20 million values of 12 characters takes 610 MiB. If each worker process held a copy, the memory of a
machine would limit the size of vocabularies. Therefore the first worker of a machine writes the index to a file, and
all workers memory-map this file, so that the operating system shares its pages between them.

The files are in the folder `star-ctr-<user id>` in the folder for temporary files (`TMPDIR`, usually `/tmp`). A file
belongs to certain vocabulary files, and never changes. It gets its final name when it is complete, so a builder that is
killed leaves no damaged index. Concurrent builders wait for each other. The most recently used files are kept
(KEPT_FILES); a file that is deleted stays available to the processes that have mapped it.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import pyarrow as pa

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.contracts.vocabulary import make_behaviour_vocabulary, read_vocabularies
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import sync_file
from star_ctr.features.encoding.row_encoder import RowEncoder
from star_ctr.features.encoding.value_index import (
    INDEX_SCHEMA,
    ValueIndex,
    hash_values,
    index_values,
    make_entries,
)

FORMAT = 1
"""Version of the file format. Increase it if the format changes."""
KEPT_FILES = 4
"""Number of index files that a machine keeps."""
_SUFFIX = ".arrow"
_NAMES = b"embeddings"
"""The key of the schema's metadata with the names of the embedding tables, in the order of the record batches."""

_ENCODERS: dict[tuple[str, ...], RowEncoder] = {}
"""The encoder of this process, by its layout and vocabulary files."""


def load_encoder(layout: Layout, files: Sequence[str], history: Sequence[str]) -> RowEncoder:
    """Return the row encoder of a layout in a worker, cached per process.

    Args:
        layout: The layout of the encoded rows.
        files: The Parquet files of the vocabularies.
        history: The kinds of `history`, in the order of the settings.

    Raises:
        UserError: The folder for index files belongs to another user.
    """
    key = (layout.model_dump_json(), *files, "", *history)
    if key not in _ENCODERS:
        _ENCODERS.clear()
        kinds = {name: index_values(*known) for name, known in make_behaviour_vocabulary(history).items()}
        _ENCODERS[key] = RowEncoder(layout, kinds | map_vocabularies(files, locate_cache()))
    return _ENCODERS[key]


def locate_cache() -> Path:
    """Return the folder of this machine's index files, created if needed.

    Raises:
        UserError: The folder belongs to another user, or is not a folder.
    """
    folder = Path(tempfile.gettempdir()) / f"star-ctr-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Others must not be able to replace an index: it decides which embedding a value has.
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        raise UserError(
            f"{folder}: the folder for vocabulary indexes is not a folder of this user; delete it, or set TMPDIR"
        )
    return folder


def map_vocabularies(files: Sequence[str], folder: Path) -> dict[str, ValueIndex]:
    """Memory-map the index of vocabularies. Builds it first if this machine does not have it.

    Args:
        files: The Parquet files of the vocabularies.
        folder: The folder of index files.

    Returns:
        The index of each embedding table with a vocabulary, by name.
    """
    path = folder / f"{_hash_files(files)}{_SUFFIX}"
    try:
        return _map_index(path)
    except FileNotFoundError:
        with _lock(folder):
            # Another process may have built it meanwhile. Under the lock, no process deletes it before it is mapped.
            if not path.exists():
                _write_index(files, path)
            found = _map_index(path)
            _remove_stale(folder)
            return found


def _hash_files(files: Sequence[str]) -> str:
    """Hash the names, sizes and times of the files, which identify their content."""
    found = []
    for file in sorted(files):
        fs, path = fsspec.core.url_to_fs(file)
        info = fs.info(path)
        found.append([file, *(str(info.get(key)) for key in ("size", "mtime", "LastModified", "ETag", "etag"))])
    # An environment whose pandas hashes differently needs another index.
    return hash_json([FORMAT, hash_values(pa.array(["star", ""])).tolist(), found], 32)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder. The system releases it when the process ends, however it ends."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_index(files: Sequence[str], path: Path) -> None:
    """Write the index of vocabularies: an Arrow file with a record batch of entries per embedding table."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    vocabularies = read_vocabularies(files)
    schema = INDEX_SCHEMA.with_metadata({_NAMES: json.dumps(list(vocabularies))})
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for known in vocabularies.values():
            writer.write_batch(make_entries(*known))
    del vocabularies
    pa.default_memory_pool().release_unused()
    sync_file(temporary)
    temporary.replace(path)


def _map_index(path: Path) -> dict[str, ValueIndex]:
    """Map an index file; raises `FileNotFoundError` if it does not exist."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    with suppress(FileNotFoundError):
        os.utime(path)
    names = json.loads(reader.schema.metadata[_NAMES])
    return {name: ValueIndex(reader.get_batch(k)) for k, name in enumerate(names)}


def _remove_stale(folder: Path) -> None:
    """Delete all but the most recently used files, and the files of killed builders. Requires the lock."""
    newest_first = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in [*newest_first[KEPT_FILES:], *folder.glob("*.tmp")]:
        file.unlink(missing_ok=True)
