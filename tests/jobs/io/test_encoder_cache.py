"""Index files: built once per machine, complete or absent, shared by processes, and removed when stale."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_ctr.conf.contracts.encoded_row import IdField, Layout
from star_ctr.conf.errors import UserError
from star_ctr.jobs.io import encoder_cache
from star_ctr.jobs.io.encoder_cache import load_encoder, locate_cache, map_vocabularies

VALUES = {"user": [f"u{k}" for k in range(300)], "item": ["a", "b", "ß"]}
CONTEXT = multiprocessing.get_context("spawn")


def write_vocabularies(file: Path, values: dict[str, list[str]]) -> list[str]:
    """Write vocabularies as `split` does, and return the list of their files."""
    rows = [(name, v, i + 2) for name, vs in values.items() for i, v in enumerate(vs)]
    embedding, value, ids = (list(x) for x in zip(*rows, strict=True))
    pq.write_table(pa.table({"embedding": embedding, "value": value, "id": pa.array(ids, pa.int32())}), file)
    return [str(file)]


def list_indexes(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.arrow"))


def test_mapped_values_have_the_ids_of_the_vocabulary(tmp_path: Path) -> None:
    found = map_vocabularies(write_vocabularies(tmp_path / "v.parquet", VALUES), tmp_path)
    assert found.keys() == VALUES.keys()
    for name, values in VALUES.items():
        queried = pa.array([*values, "new", None])
        assert found[name].find(queried).to_pylist() == [*range(2, 2 + len(values)), None, None]


def test_vocabularies_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    write_vocabularies(tmp_path / "v.parquet", VALUES)
    file = encoder_cache.fsspec.open(f"{bucket}/v.parquet", "wb")
    with file as target:
        target.write((tmp_path / "v.parquet").read_bytes())
    found = map_vocabularies([f"{bucket}/v.parquet"], tmp_path)
    assert found["item"].find(pa.array(["ß"])).to_pylist() == [4]


def test_a_layout_without_vocabularies_has_no_index(tmp_path: Path) -> None:
    assert map_vocabularies([], tmp_path) == {}


def test_an_index_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_vocabularies(tmp_path / "v.parquet", VALUES)
    first = map_vocabularies(files, tmp_path)
    monkeypatch.setattr(encoder_cache, "read_vocabularies", pytest.fail)
    second = map_vocabularies(files, tmp_path)
    assert second["user"].find(pa.array(["u7"])) == first["user"].find(pa.array(["u7"]))


def test_other_content_in_a_file_has_another_index(tmp_path: Path) -> None:
    files = write_vocabularies(tmp_path / "v.parquet", VALUES)
    map_vocabularies(files, tmp_path)
    write_vocabularies(tmp_path / "v.parquet", VALUES | {"item": ["b", "a", "ß"]})
    assert map_vocabularies(files, tmp_path)["item"].find(pa.array(["a"])).to_pylist() == [3]


def map_and_find(files: list[str], folder: Path, queue: multiprocessing.Queue[list[int]]) -> None:
    found = map_vocabularies(files, folder)
    queue.put(found["user"].find(pa.array(["u0", "u299"])).to_pylist())


def test_concurrent_builders_agree(tmp_path: Path) -> None:
    files = write_vocabularies(tmp_path / "v.parquet", VALUES)
    queue = CONTEXT.Queue()
    processes = [CONTEXT.Process(target=map_and_find, args=(files, tmp_path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [[2, 301]] * 3
    for process in processes:
        process.join()
    assert len(list_indexes(tmp_path)) == 1
    assert not list(tmp_path.glob("*.tmp"))


def build_slowly(files: list[str], folder: Path) -> None:
    encoder_cache.sync_file = lambda path: time.sleep(60)  # type: ignore[assignment]
    map_vocabularies(files, folder)


def test_a_killed_builder_leaves_no_index(tmp_path: Path) -> None:
    files = write_vocabularies(tmp_path / "v.parquet", VALUES)
    process = CONTEXT.Process(target=build_slowly, args=(files, tmp_path))
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list_indexes(tmp_path)
    assert map_vocabularies(files, tmp_path)["user"].find(pa.array(["u1"])).to_pylist() == [3]
    assert not list(tmp_path.glob("*.tmp"))


def test_only_the_files_used_last_are_kept(tmp_path: Path) -> None:
    files = [write_vocabularies(tmp_path / f"v{k}.parquet", VALUES) for k in range(6)]
    first = map_vocabularies(files[0], tmp_path)
    for k in (1, 2, 3, 0, 4, 5):
        map_vocabularies(files[k], tmp_path)
        time.sleep(0.02)  # times of files are not exact
    names = {f"{encoder_cache._hash_files(file)}.arrow" for file in (files[3], files[0], files[4], files[5])}
    assert set(list_indexes(tmp_path)) == names
    for file in tmp_path.glob("*.arrow"):
        file.unlink()
    # A deleted file stays mapped.
    assert first["user"].find(pa.array(["u299"])).to_pylist() == [301]


def test_a_folder_of_another_kind_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = locate_cache()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match="set TMPDIR"):
        locate_cache()


def test_encoders_of_a_layout_share_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    layout = Layout(
        ds="2026-01-01", domains=["a"], embeddings={"item": 5}, buckets=[], numeric=[], sequences=[],
        categorical=[IdField(name="item", column="item_id", embedding="item")],
    )  # fmt: skip
    files = write_vocabularies(tmp_path / "v.parquet", VALUES)
    encoder = load_encoder(layout, files, ["click"])
    assert load_encoder(layout, files, ["click"]) is encoder
    ints, _ = encoder.encode(pa.table({"item_id": ["ß", None, "x"]}))
    assert np.frombuffer(b"".join(ints.to_pylist()), np.int32).tolist() == [4, 0, 1]
