"""Training from the DVC remote: what `dvc push` put into a folder or on S3 gives the batches of the local shards, bit for bit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from small_corpus import make_corpus
from swift_server import KEY, REGION, SECRET, S3Server

from components.data import s3_objects
from components.data.documents import SPLITS, CorpusError
from components.data.index import Index
from components.data.places import ShardPlaces, shard_places
from components.data.reader import DocumentReader, evaluation_documents
from components.data.s3_objects import S3Objects
from components.data.stream import TrainStream
from components.params import COMPOSED_KINDS, TrainParams
from components.run.failures import FailureClass, StageError
from components.run.paths import Paths
from components.settings import Settings
from model.batch import InterleavedBatch
from model.presets import preset

TRAIN = TrainParams(steps=20, rows_per_step=4, row_tokens=256, mixture=dict.fromkeys(COMPOSED_KINDS, 1.0), learning_rate=1e-3)
BUCKET = "corpora"
ADD_AND_PUSH = """
from dvc.repo import Repo
with Repo(".") as repo:
    repo.add("outputs/shards")
    for remote in ("folder", "s3"):
        repo.push(remote=remote)
"""


@dataclass(frozen=True)
class Pushed:
    """A corpus and what DVC made of it: `checkout` has outputs/index but no shards, and its remote is the one named in .dvc/config."""

    root: Path

    @property
    def index(self) -> Path:
        return self.root / "index"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def folder_remote(self) -> Path:
        return self.root / "folder-remote"

    def checkout(self, name: str, remote: str) -> Paths:
        """A clone without data whose default remote is `remote`."""
        root = self.root / name
        shutil.rmtree(root, ignore_errors=True)
        (root / ".dvc").mkdir(parents=True)
        for file in ("config", "config.local"):
            shutil.copyfile(self.root / "repo" / ".dvc" / file, root / ".dvc" / file)
        config = root / ".dvc" / "config"
        config.write_text(config.read_text().replace("remote = s3", f"remote = {remote}"))
        shutil.copytree(self.index, root / "outputs" / "index")
        return Paths(root)

    def places(self, name: str, remote: str, **settings: object) -> ShardPlaces:
        paths = self.checkout(name, remote)
        return shard_places(paths, Settings(root=paths.root, **settings))


@pytest.fixture(scope="module")
def pushed(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    root = tmp_path_factory.mktemp("pushed")
    make_corpus(root)
    repo = root / "repo"
    (repo / "outputs").mkdir(parents=True)
    shutil.copytree(root / "shards", repo / "outputs" / "shards")
    made = s3_objects._client({"endpointurl": server.endpoint, "region": REGION, "access_key_id": KEY, "secret_access_key": SECRET})
    made.create_bucket(Bucket=BUCKET)
    (repo / ".dvc").mkdir()
    (repo / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = true\n    remote = s3\n['remote \"s3\"']\n    url = s3://{BUCKET}/dvc\n    endpointurl = {server.endpoint}\n"
        f"    region = {REGION}\n['remote \"folder\"']\n    url = {root / 'folder-remote'}\n"
    )
    (repo / ".dvc" / "config.local").write_text(f"['remote \"s3\"']\n    access_key_id = {KEY}\n    secret_access_key = {SECRET}\n")
    variables = {"DVC_NO_ANALYTICS": "1", "DVC_GLOBAL_CONFIG_DIR": str(root), "DVC_SYSTEM_CONFIG_DIR": str(root)}
    subprocess.run([sys.executable, "-c", ADD_AND_PUSH], cwd=repo, env={**os.environ, **variables}, check=True)
    return Pushed(root)


def batches(pushed: Pushed, shards: Path | ShardPlaces) -> list[InterleavedBatch]:
    shape = preset("smoke", vocab_size=Index(pushed.index).tokenizer.vocab_size).shape
    stream = TrainStream(pushed.index, shards, TRAIN, shape, 0, window_documents=16)
    try:
        return [stream.batch(step) for step in range(3)]
    finally:
        stream.close()


def same(one: list[InterleavedBatch], two: list[InterleavedBatch]) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for a, b in zip(one, two, strict=True) for field in fields(a)]
    return all(left is right is None or torch.equal(left, right) for left, right in pairs)


def test_every_place_gives_the_same_batches(pushed: Pushed, tmp_path: Path) -> None:
    local = batches(pushed, pushed.shards)
    assert same(local, batches(pushed, pushed.places("a", "folder")))
    ranges = pushed.places("b", "s3", fetch="ranges")
    assert same(local, batches(pushed, ranges))
    assert not (ranges.cache and ranges.cache.exists())
    whole = pushed.places("c", "s3", shard_cache=tmp_path / "cache")
    assert same(local, batches(pushed, whole))
    assert {path.name for path in (tmp_path / "cache").glob("?" * 32)} <= {shard.md5 for shard in Index(pushed.index).shards.values()}
    smallest = min(shard.size for shard in Index(pushed.index).shards.values())
    room = int(2.5 * max(shard.size for shard in Index(pushed.index).shards.values()))
    little = pushed.places("d", "s3", shard_cache=tmp_path / "little", shard_cache_bytes=room, fetch="shards")
    assert same(local, batches(pushed, little))
    assert smallest <= sum(path.stat().st_size for path in (tmp_path / "little").iterdir()) <= room


def test_evaluation_needs_no_pull_either(pushed: Pushed) -> None:
    local = evaluation_documents(pushed.index, pushed.shards, "story")
    remote = evaluation_documents(pushed.index, pushed.places("e", "s3", fetch="ranges"), "story")
    assert [one.document for one in remote] == [one.document for one in local]
    assert len(local) == 2


def test_keys_stay_in_dvcs_configuration(pushed: Pushed) -> None:
    places = pushed.places("f", "s3", fetch="ranges")
    assert SECRET not in places.model_dump_json()
    assert KEY not in places.model_dump_json()
    store = S3Objects(places.stores[-1], places.repository)
    assert SECRET not in repr(vars(store))


def test_a_missing_object_is_named_with_the_command(pushed: Pushed, tmp_path: Path) -> None:
    gone = next(iter(Index(pushed.index).shards.values()))
    key = f"files/md5/{gone.md5[:2]}/{gone.md5[2:]}"
    rows = (row for kind in COMPOSED_KINDS for split in SPLITS for row in Index(pushed.index).rows(split, kind))
    row = next(row for row in rows if row.shard == gone.name)
    for number, fetch in enumerate(("ranges", "shards")):
        places = pushed.places(f"g{number}", "s3", fetch=fetch, shard_cache=tmp_path / "cache")
        reader = DocumentReader(Index(pushed.index), places)
        client = S3Objects(places.stores[-1], places.repository)._client
        body = client.get_object(Bucket=BUCKET, Key=f"dvc/{key}")["Body"].read()
        client.delete_object(Bucket=BUCKET, Key=f"dvc/{key}")
        with pytest.raises(CorpusError, match=rf"{gone.name} is not in s3://{BUCKET}/dvc/{key} .*run `dvc push outputs/shards`"):
            reader.load(row)
        client.put_object(Bucket=BUCKET, Key=f"dvc/{key}", Body=body[:-512])
        with pytest.raises(CorpusError, match=rf"{key} has {len(body) - 512} bytes, shard {gone.name} has {len(body)}"):
            reader.load(row)
        client.put_object(Bucket=BUCKET, Key=f"dvc/{key}", Body=b"x" * len(body))
        with pytest.raises(CorpusError, match=r"not those of the index.*`dvc push --force outputs/shards`"):
            reader.load(row)
        client.put_object(Bucket=BUCKET, Key=f"dvc/{key}", Body=body)
        assert reader.load(row).document.id == row.id
        reader.close()
    (pushed.folder_remote / key).rename(tmp_path / "aside")
    with pytest.raises(CorpusError, match=rf"{gone.name} is neither in .* nor as {key} in .*; run `dvc pull outputs/shards`"):
        DocumentReader(Index(pushed.index), pushed.places("h", "folder")).load(row)
    (tmp_path / "aside").rename(pushed.folder_remote / key)


def test_a_damaged_cached_shard_is_fetched_again(pushed: Pushed, tmp_path: Path) -> None:
    index = Index(pushed.index)
    places = pushed.places("i", "s3", shard_cache=tmp_path)
    row = index.rows("train", "caption")[0]
    whole = DocumentReader(index, places).load(row).document
    copy = tmp_path / index.shards[row.shard].md5
    kept = copy.read_bytes()
    for damaged in (kept[:-1000], kept[: row.offset + 700] + b"?" * 100 + kept[row.offset + 800 :]):
        copy.write_bytes(damaged)
        assert DocumentReader(index, places).load(row).document == whole
        assert copy.read_bytes() == kept


def test_a_remote_that_refuses_or_is_silent_is_told_apart(pushed: Pushed) -> None:
    index = Index(pushed.index)
    shard = next(iter(index.shards.values()))
    paths = pushed.checkout("j", "s3")
    local = paths.root / ".dvc" / "config.local"
    local.write_text(local.read_text().replace(SECRET, "wrong"))
    places = shard_places(paths, Settings(root=paths.root, fetch="ranges"))
    with pytest.raises(StageError, match="refuses access: SignatureDoesNotMatch") as refused:
        S3Objects(places.stores[-1], places.repository).read(shard, 0, 10)
    assert refused.value.failure is FailureClass.BAD_CONFIG
    assert "dvc remote modify --local" in refused.value.fix
    config = paths.root / ".dvc" / "config"
    config.write_text(re.sub(r"http://127.0.0.1:\d+", "http://127.0.0.1:9", config.read_text()))
    with pytest.raises(StageError, match="cannot be fetched after 1 attempts") as silent:
        S3Objects(places.stores[-1], places.repository, attempts=1).read(shard, 0, 10)
    assert silent.value.failure is FailureClass.INFRASTRUCTURE
