"""Checkpoints on a real S3 server: in parts, committed once, fetched by an empty machine; a bucket that is gone is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from checkpoint_world import IDENTITIES, Told, save, until, written
from swift_server import KEY, REGION, SECRET, S3Server

from components.checkpoints.committer import Committer
from components.checkpoints.folder import CheckpointFolder
from components.checkpoints.manifest import sha256_of
from components.checkpoints.places import Place, PlaceError, S3Place, open_place
from components.checkpoints.resume import find_resume
from components.checkpoints.second import SecondPlace, SupersededError

BUCKET = "checkpoints"
PART = 5 << 20
"""The smallest part that S3 takes."""


@pytest.fixture(scope="module")
def client(server: S3Server) -> Any:
    made = client_of(server.endpoint)
    made.create_bucket(Bucket=BUCKET)
    return made


def client_of(endpoint: str) -> Any:
    """AWS's own client, which tries once."""
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": REGION}
    return boto3.client("s3", endpoint_url=endpoint, config=Config(retries={"total_max_attempts": 1}), **keys)


@pytest.fixture
def place(server: S3Server, client: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    """A place of this test, opened as the settings would."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return open_place(f"s3://{BUCKET}/all", request.node.name)


def test_an_empty_machine_goes_on_from_a_bucket(place: Place, tmp_path: Path) -> None:
    second, told = SecondPlace(place), Told()
    folder = CheckpointFolder(tmp_path / "old")
    with Committer(folder, told, second) as committer:
        for step in (2, 4, 6):
            written(folder, step)
            until(lambda: not folder.in_flight())
        assert committer.problem is None
    assert [kind for kind, _ in told.kinds] == ["checkpoint", "checkpoint_copied"] * 3
    assert second.steps() == [4, 6]
    shutil.rmtree(tmp_path / "old")
    found, notes = find_resume(CheckpointFolder(tmp_path / "new"), IDENTITIES, second=SecondPlace(place))
    assert found is not None and (found.step, notes) == (6, [])
    place.delete(next(name for name in place.names("step-00000006") if name.endswith("rank-1.pt")))
    found, notes = find_resume(CheckpointFolder(tmp_path / "newer"), IDENTITIES, second=SecondPlace(place))
    assert found is not None and found.step == 4
    assert len(notes) == 1 and "step 6 cannot be fetched" in notes[0] and "rank-1.pt" in notes[0]


def test_large_files_go_in_parts_and_come_back_whole(place: Place, client: Any, tmp_path: Path) -> None:
    large = S3Place(client, BUCKET, "large", part_bytes=PART)
    (tmp_path / "file").write_bytes(bytes(range(256)) * (2 * PART // 256) + b"and one part more")
    large.send("file", tmp_path / "file", sha256_of(tmp_path / "file"))
    assert client.head_object(Bucket=BUCKET, Key="large/file")["ETag"].endswith('-3"')
    large.fetch("file", tmp_path / "back")
    assert sha256_of(tmp_path / "back") == sha256_of(tmp_path / "file")
    left = client.create_multipart_upload(Bucket=BUCKET, Key="large/begun")
    client.upload_part(Bucket=BUCKET, Key="large/begun", UploadId=left["UploadId"], PartNumber=1, Body=b"x")
    SecondPlace(large).claim({})
    assert not client.list_multipart_uploads(Bucket=BUCKET, Prefix="large/").get("Uploads"), "what a killed one had begun is given up"
    assert large.names("") == ["file", "writers/00000001.json"]


def test_two_writers_cannot_both_commit(place: Place, tmp_path: Path) -> None:
    assert place.create("COMMIT", b"first")
    assert not place.create("COMMIT", b"second")
    assert place.read("COMMIT") == b"first"
    assert place.read("nothing") is None
    first, second = SecondPlace(place), SecondPlace(place)
    assert (first.claim({"host": "a"}), second.claim({"host": "b"})) == (1, 2)
    save(CheckpointFolder(tmp_path / "b"), second, 2)
    with pytest.raises(SupersededError, match="taken over by"):
        save(CheckpointFolder(tmp_path / "a"), first, 2)
    assert not [name for name in place.names("step-") if "writer-00000001" in name]


@pytest.mark.parametrize(("bucket", "lives", "reason"), [("no-such-bucket", True, "NoSuchBucket"), (BUCKET, False, "connect")])
def test_a_bucket_that_is_gone_is_named_and_training_goes_on(bucket: str, lives: bool, reason: str, client: Any, tmp_path: Path) -> None:
    broken = S3Place(client if lives else client_of("http://127.0.0.1:1"), bucket, "")
    (tmp_path / "file").write_bytes(bytes(1000))
    with pytest.raises(PlaceError, match=f"{bucket}/file: .*{reason}"):
        broken.send("file", tmp_path / "file", sha256_of(tmp_path / "file"))
    folder, told = CheckpointFolder(tmp_path / "work"), Told()
    with Committer(folder, told, SecondPlace(broken)) as committer:
        written(folder, 2)
        until(lambda: not folder.in_flight())
    assert committer.problem is None
    assert told.kinds == [("checkpoint", 2), ("checkpoint_not_copied", 2)]
