"""Training on a split in an object store gives the same bits as training on local files."""

from __future__ import annotations

from pathlib import Path

import fsspec

from star_ctr.model.training.run import train
from tests.model.synthetic import job


def test_a_split_in_a_bucket_trains_the_same_model(bucket: str, table: str, tmp_path: Path) -> None:
    fsspec.filesystem("s3").put(table, f"{bucket}/shop/split", recursive=True)
    local, remote = job(table, tmp_path / "local"), job(table, tmp_path / "remote")
    remote = remote.model_copy(update={"split": f"{bucket}/shop/split"})
    assert train(remote)["sample_scores"] == train(local)["sample_scores"]
    assert (remote.path / "model.safetensors").read_bytes() == (local.path / "model.safetensors").read_bytes()
