"""A split in an object store: read by its URL, the training is the one on local files, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from star_ctr.model.run import train
from tests.model.synthetic import job


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket of an S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="warehouse")
    yield "s3://warehouse"
    server.stop()


def test_a_split_in_a_bucket_trains_the_same_model(bucket: str, table: str, tmp_path: Path) -> None:
    fsspec.filesystem("s3").put(table, f"{bucket}/shop/split", recursive=True)
    local, remote = job(table, tmp_path / "local"), job(table, tmp_path / "remote")
    remote = remote.model_copy(update={"split": f"{bucket}/shop/split"})
    assert train(remote)["probe"] == train(local)["probe"]
    assert (remote.place / "model.safetensors").read_bytes() == (local.place / "model.safetensors").read_bytes()
