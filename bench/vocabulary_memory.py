"""Benchmark: private memory of a worker with the index of large vocabularies, and the speed of its lookups.

Two workers of a machine map the index of 20 million values, and look up 2 million values each. The private memory of a
worker (pages that no other process shares) is compared with that of a worker that imports the same modules and creates
the same batches, but has no index. The speed is compared with a binary search in sorted hashes that each worker holds
in its own memory, beside the values in the order of their ids: 16 bytes per value plus the text.

    python bench/vocabulary_memory.py [--values 20000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from entries import make_entry

from star_ctr.features.encoding.id_encoder import encode_ids
from star_ctr.features.encoding.value_index import hash_values
from star_ctr.jobs.io.encoder_cache import map_vocabularies

BATCHES = 122
"""Number of batches that a worker looks up."""
BATCH = 16_384
"""Number of values of a batch, as in `split`."""


def make_values(numbers: Any) -> pa.Array:
    """Return texts of 12 characters, like ids in logs."""
    return pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 12, "0")


def make_batches(values: int, seed: int, count: int = BATCHES) -> list[pa.Array]:
    """Return batches of random values, a tenth of which are not in the vocabulary."""
    rng = np.random.default_rng(seed)
    return [make_values(rng.integers(0, values * 10 // 9, BATCH)) for _ in range(count)]


def write_vocabulary(file: Path, values: int) -> None:
    """Write a vocabulary as the step `split` does."""
    schema = pa.schema([("embedding", pa.string()), ("value", pa.string()), ("id", pa.int32())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, values, 1_000_000):
            numbers = np.arange(start, min(start + 1_000_000, values))
            columns = [pa.array(["item"] * len(numbers)), make_values(numbers), pa.array(numbers + 2, pa.int32())]
            writer.write_table(pa.table(columns, schema=schema))


def read_memory() -> dict[str, float]:
    """Return the private and the shared memory of this process, in MiB."""
    sizes: dict[str, int] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        key, size, *_ = line.split()
        sizes[key.removesuffix(":")] = int(size)
    return {
        "private": (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024,
        "dirty": sizes["Private_Dirty"] / 1024,
        "shared": (sizes["Shared_Clean"] + sizes["Shared_Dirty"]) / 1024,
    }


class SortedHashes:
    """Sorted hashes in the memory of a process, beside the values in the order of their ids."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values
        hashes = hash_values(values)
        self.order = np.argsort(hashes)
        self.hashes = hashes[self.order]

    def find(self, values: pa.Array) -> pa.Array:
        """Return the position of each value; null if it is not known."""
        encoded = values.dictionary_encode()
        distinct = encoded.dictionary
        found = np.minimum(np.searchsorted(self.hashes, hash_values(distinct)), len(self.order) - 1)
        positions = pa.array(self.order[found])
        is_equal = pc.equal(distinct, self.values.take(positions))
        return pc.if_else(is_equal, positions, pa.scalar(None, pa.int64())).take(encoded.indices)


def work(kind: str, folder: Path, values: int, seed: int) -> None:
    """Look up values in a worker. Afterwards, wait for a line of input, and write the worker's memory as JSON."""
    batches = make_batches(values, seed)
    if kind == "mapped":
        known = map_vocabularies([str(folder / "vocabulary.parquet")], folder)["item"]
        for batch in batches:
            encode_ids(batch, known)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(read_memory()), flush=True)
    sys.stdin.readline()


def start_worker(kind: str, folder: Path, values: int, seed: int) -> subprocess.Popen[str]:
    """Start a worker."""
    command = [sys.executable, __file__, "--kind", kind, "--folder", str(folder), "--values", str(values)]
    return subprocess.Popen([*command, "--seed", str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def measure_memory(kind: str, folder: Path, values: int) -> list[dict[str, float]]:
    """Run two workers at the same time, and return the memory of each."""
    workers = [start_worker(kind, folder, values, seed) for seed in (0, 1)]
    for worker in workers:
        _get(worker.stdout).readline()
    memory = []
    for worker in workers:  # both workers still run, so that pages that both map count as shared
        _send(worker)
        memory.append(json.loads(_get(worker.stdout).readline()))
    for worker in workers:
        _send(worker)
        worker.wait()
    return memory


def _get(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _send(worker: subprocess.Popen[str]) -> None:
    _get(worker.stdin).write("\n")
    _get(worker.stdin).flush()


def compare_speed(folder: Path, values: int) -> tuple[float, float]:
    """Look up the same batches in both indexes alternately; returns the seconds of processor time per batch."""
    mapped = map_vocabularies([str(folder / "vocabulary.parquet")], folder)["item"]
    in_memory = SortedHashes(make_values(np.arange(values)))
    batches = make_batches(values, seed=2, count=40)
    seconds = {"mapped": 0.0, "memory": 0.0}
    indexes = {"mapped": mapped, "memory": in_memory}
    for number, batch in enumerate(batches):
        found = {}
        for name, index in list(indexes.items())[:: 1 if number % 2 else -1]:
            start = time.process_time()
            found[name] = index.find(batch)
            seconds[name] += (time.process_time() - start) / len(batches)
        assert found["mapped"].equals(pc.add(found["memory"], 2).cast(pa.int32()))
    return seconds["mapped"], seconds["memory"]


def run(values: int = 20_000_000) -> list[dict[str, Any]]:
    """Measure memory and speed, and return the entries of bench.json.

    Args:
        values: The number of values in the vocabulary.
    """
    with tempfile.TemporaryDirectory(prefix="star-ctr-vocabulary-") as name:
        folder = Path(name)
        write_vocabulary(folder / "vocabulary.parquet", values)
        start = time.monotonic()
        subprocess.run([sys.executable, __file__, "--kind", "build", "--folder", name], check=True)
        build = time.monotonic() - start
        size = sum(file.stat().st_size for file in folder.glob("*.arrow")) / 2**20
        without = measure_memory("none", folder, values)
        mapped = measure_memory("mapped", folder, values)
        speed, memory_speed = compare_speed(folder, values)
    private = max(m["private"] for m in mapped) - min(m["private"] for m in without)
    dirty = max(m["dirty"] for m in mapped) - min(m["dirty"] for m in without)
    reference = (
        f"{values:,} values, file of {size:.0f} MiB built in {build:.0f} s; dirty pages {dirty:.1f} MiB, shared "
        f"{mapped[0]['shared'] - without[0]['shared']:.0f} MiB; workers of {[round(m['private'], 1) for m in mapped]} "
        f"MiB against {[round(m['private'], 1) for m in without]} MiB"
    )
    lookup = f"{speed * 1e3:.2f} ms per batch of {BATCH:,} values, against {memory_speed * 1e3:.2f} ms in memory"
    return [
        make_entry("vocabulary_memory", private, "MiB per worker", 100, reference),
        make_entry("vocabulary_lookup", speed / memory_speed, "x the time in memory", 1.2, lookup),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=20_000_000)
    parser.add_argument("--kind", choices=["none", "mapped", "build"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind == "build":
        map_vocabularies([str(arguments.folder / "vocabulary.parquet")], arguments.folder)
    elif arguments.kind:
        work(arguments.kind, arguments.folder, arguments.values, arguments.seed)
    else:
        for result in run(arguments.values):
            print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
