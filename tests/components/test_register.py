"""Registering against a real MLflow store: one version per digest, with lineage and evidence."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_world import METRIC, World

from components.register import register
from components.registry.package import DIGEST_TAG, RegistryError, fetch_evaluated, find_version, versions


@pytest.fixture
def world(store_uri: str, tmp_path: Path) -> World:
    return World(store_uri, tmp_path)


def test_a_version_carries_digest_lineage_and_evidence(world: World) -> None:
    candidate = world.candidate("aaa", 0.7)
    version = find_version(world.client, "mmfs-vqa", candidate.version)
    assert (candidate.version, candidate.created) == (1, True)
    assert version.tags[DIGEST_TAG] == "aaa"
    assert version.tags["mmfs.git_sha"] == "abc"
    evaluated = fetch_evaluated(world.client, version, "m1")
    assert evaluated == candidate.evaluated
    assert evaluated.values[METRIC] == 0.7
    assert sum(evaluated.scores[METRIC].values()) == 140


def test_the_version_is_the_published_model(world: World) -> None:
    model_id = world.publish("aaa")
    register(world.client, "vqa", world.origin("run"), *world.outs("aaa", 0.7))
    assert find_version(world.client, "mmfs-vqa", 1).source == f"models:/{model_id}"
    assert "mmfs-vqa" in world.client.get_logged_model(model_id).tags["mlflow.modelVersions"]


def test_a_known_digest_keeps_its_version(world: World) -> None:
    first = world.candidate("aaa", 0.7)
    again = register(world.client, "vqa", world.origin("another run"), *world.outs("aaa", 0.7))
    assert (again.version, again.created) == (first.version, False)
    assert len(versions(world.client, "mmfs-vqa")) == 1


def test_a_known_digest_gains_the_evidence_of_another_manifest(world: World) -> None:
    world.candidate("aaa", 0.7, "m1")
    register(world.client, "vqa", world.origin("later"), *world.outs("aaa", 0.8, "m2"))
    version = find_version(world.client, "mmfs-vqa", 1)
    assert fetch_evaluated(world.client, version, "m1").values[METRIC] == 0.7
    assert fetch_evaluated(world.client, version, "m2").values[METRIC] == 0.8


def test_unpublished_weights_are_refused(world: World) -> None:
    with pytest.raises(RegistryError, match="no published weights have the digest bbb"):
        register(world.client, "vqa", world.origin("run"), *world.outs("bbb", 0.7))


def test_of_two_registrations_at_once_the_first_version_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish("aaa")
    create = world.client.create_model_version

    def create_twice(*args: object, **kwargs: object) -> object:
        create(*args, **kwargs)  # the other run, between our look and our write
        return create(*args, **kwargs)

    monkeypatch.setattr(world.client, "create_model_version", create_twice)
    candidate = register(world.client, "vqa", world.origin("run"), *world.outs("aaa", 0.7))
    assert candidate.version == 1
    assert [int(one.version) for one in versions(world.client, "mmfs-vqa")] == [1]


def test_a_clean_run_of_a_version_from_a_dirty_tree_stays_bound_to_its_origin(world: World) -> None:
    world.candidate("aaa", 0.7, obstacle="the tree was dirty")
    again = register(world.client, "vqa", world.origin("clean"), *world.outs("aaa", 0.7))
    assert again.obstacle == "the tree was dirty"
