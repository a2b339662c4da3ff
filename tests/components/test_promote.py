"""Promotion against a real MLflow store: the ledger decides, aliases follow, and nothing is decided twice."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from registry_world import METRIC, World

from components.params import GateRule
from components.promote import AliasDrift, Promotions
from components.registry.ledger import Ledger, Proposal, standing
from components.registry.package import RegistryError, UnknownModel, resolve_version
from components.registry.store import FolderStore
from components.serving.client import ask
from components.serving.items import Options, Prompt
from components.settings import Settings

MODEL = "mmfs-vqa"
RULE = GateRule(metric=METRIC, minimum=0.5)


@pytest.fixture
def world(store_uri: str, tmp_path: Path) -> World:
    return World(store_uri, tmp_path)


@pytest.fixture
def promotions(world: World) -> Promotions:
    return Promotions(world.client, world.ledger)


def aliases(world: World) -> dict[str, int]:
    return {alias: int(version) for alias, version in world.client.get_registered_model(MODEL).aliases.items()}


def test_champions_follow_one_another_and_the_beaten_stays_previous(world: World, promotions: Promotions) -> None:
    first = promotions.consider(world.candidate("aaa", 0.6), RULE)
    second = promotions.consider(world.candidate("bbb", 0.9), RULE)
    assert (first.decision, second.decision) == ("promoted", "promoted")
    assert aliases(world) == {"champion": 2, "previous": 1}
    assert world.client.get_model_version_by_alias(MODEL, "champion").tags["mmfs.model_digest"] == "bbb"


def test_a_weaker_challenger_is_rejected_once_however_often_it_is_considered(world: World, promotions: Promotions) -> None:
    promotions.consider(world.candidate("aaa", 0.8), RULE)
    candidate = world.candidate("bbb", 0.7)
    outcomes = [promotions.consider(candidate, RULE) for _ in range(3)]
    assert [outcome.decision for outcome in outcomes] == ["rejected"] * 3
    assert {outcome.entry for outcome in outcomes} == {2}
    assert aliases(world) == {"champion": 1, "challenger": 2}


def test_the_champion_itself_is_unchanged(world: World, promotions: Promotions) -> None:
    candidate = world.candidate("aaa", 0.8)
    promotions.consider(candidate, RULE)
    assert promotions.consider(candidate, RULE).decision == "unchanged"
    assert len(world.ledger.entries(MODEL)) == 1


def test_a_killed_promotion_is_completed_by_the_next(world: World, promotions: Promotions) -> None:
    candidate = world.candidate("aaa", 0.8)
    written = world.ledger.append(MODEL, [], Proposal("promoted", 1, "aaa", "run", ("first",), "gate"))
    assert written is not None
    assert aliases(world) == {}
    assert promotions.consider(candidate, RULE).decision == "unchanged"
    assert aliases(world) == {"champion": 1}


def test_a_run_with_a_dirty_patch_is_not_promotable(world: World, promotions: Promotions) -> None:
    outcome = promotions.consider(world.candidate("aaa", 0.9, obstacle="source files were changed"), RULE)
    assert (outcome.decision, outcome.reasons) == ("not promotable", ("source files were changed",))
    assert world.ledger.entries(MODEL) == []
    with pytest.raises(RegistryError, match="source files were changed"):
        promotions.promote(MODEL, 1, by="ada")


def test_rollback_puts_the_previous_champion_back_and_keeps_the_other_down(world: World, promotions: Promotions) -> None:
    promotions.consider(world.candidate("aaa", 0.6), RULE)
    candidate = world.candidate("bbb", 0.9)
    promotions.consider(candidate, RULE)
    entry = promotions.rollback(MODEL, by="ada", reason="it stutters")
    assert (entry.kind, entry.version, entry.by, entry.reasons) == ("rolled back", 2, "ada", ("it stutters",))
    assert aliases(world) == {"champion": 1}
    assert promotions.consider(candidate, RULE).decision == "not promotable"
    promotions.promote(MODEL, 2, by="ada")
    assert aliases(world) == {"champion": 2, "previous": 1}


def test_rollback_without_an_earlier_champion_is_refused(world: World, promotions: Promotions) -> None:
    with pytest.raises(UnknownModel, match="no model mmfs-vqa is registered; `mmfs models list`"):
        promotions.rollback(MODEL, by="ada")
    promotions.consider(world.candidate("aaa", 0.6), RULE)
    with pytest.raises(RegistryError, match="no earlier champion"):
        promotions.rollback(MODEL, by="ada")


def test_promoting_an_unknown_version_or_the_champion_is_refused(world: World, promotions: Promotions) -> None:
    promotions.consider(world.candidate("aaa", 0.6), RULE)
    with pytest.raises(UnknownModel, match="has no version 7; `mmfs models list`"):
        promotions.promote(MODEL, 7, by="ada")
    with pytest.raises(RegistryError, match="is the champion already"):
        promotions.promote(MODEL, 1, by="ada")


def test_verify_reports_an_alias_that_somebody_moved_and_follow_mends_it(world: World, promotions: Promotions) -> None:
    promotions.consider(world.candidate("aaa", 0.6), RULE)
    promotions.consider(world.candidate("bbb", 0.9), RULE)
    assert promotions.verify(MODEL) == []
    world.client.set_registered_model_alias(MODEL, "champion", "1")
    world.client.delete_registered_model_alias(MODEL, "previous")
    assert promotions.verify(MODEL) == [AliasDrift(MODEL, "champion", 2, 1), AliasDrift(MODEL, "previous", 1, None)]
    promotions.follow(MODEL)
    assert promotions.verify(MODEL) == []


def test_challengers_racing_for_the_throne_end_with_one_champion_that_the_ledger_names(world: World, store_uri: str) -> None:
    candidates = [world.candidate(f"d{number}", 0.55 + number / 10) for number in range(4)]
    decided = []

    def decide(number: int) -> None:
        promotions = Promotions(MlflowClient(tracking_uri=store_uri), Ledger(FolderStore(world.folder / "ledger")))
        decided.append(promotions.consider(candidates[number], RULE).decision)

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = world.ledger.entries(MODEL)
    assert len(decided) == len(entries) == 4
    assert standing(entries).champion == 4
    assert Promotions(world.client, world.ledger).verify(MODEL) == []


@pytest.mark.parametrize("address", ["models:/mmfs-vqa@champion", "models:/mmfs-vqa/3"])
def test_an_unknown_model_is_named_with_where_to_look(world: World, store_uri: str, tmp_path: Path, address: str) -> None:
    with pytest.raises(UnknownModel, match=r"mmfs-vqa has no version .*`mmfs models list`"):
        resolve_version(world.client, address)
    with pytest.raises(UnknownModel, match=f"{address}: .*`mmfs run` trains some"):
        ask(Settings(root=tmp_path, tracking_uri=store_uri), address, Prompt.of("a 3"), Options())
