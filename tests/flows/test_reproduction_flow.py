"""A small line rebuilt from its lineage: really computed again, and compared by what people call the parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_line import FILES, SmallLine

from components.run.paths import Home
from components.run.record import RunRecords
from components.services.health import call

pytestmark = pytest.mark.timeout(600)
STAGES = ["prepare", "pretrain", "finetune@vqa", "evaluate@vqa"]


@pytest.fixture(scope="module")
def line(
    checkout: Callable[..., Path], prefect_api: str, child_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> SmallLine:
    made = SmallLine(checkout(tmp_path_factory.mktemp("line") / "repository", FILES), {**child_environment, "PREFECT_API_URL": prefect_api})
    made.publish(0)
    assert made.run()["status"] == "Completed"
    return made


def test_the_same_source_gives_the_same_outs_without_any_cache(line: SmallLine, prefect_api: str) -> None:
    result = line.reproduce("models:/mmfs-vqa@champion")
    assert (result["identical"], result["differences"]) == (True, [])
    assert result["stages_run"] == STAGES
    assert (result["model"], result["version"]) == ("mmfs-vqa", 1)
    assert not list(Home(line.root).worktrees.iterdir())
    known = RunRecords(Home(line.root)).find(result["name"])
    assert known.state == "Completed"
    assert (known.mlflow_run_id, known.prefect_flow_run_id) == (result["mlflow_run_id"], result["prefect_flow_run_id"])
    assert known.result["identical"] is True
    own = line.client.get_run(result["mlflow_run_id"])
    assert (own.info.run_name, own.info.status) == (result["name"], "FINISHED")
    flow = call(f"{prefect_api}/flow_runs/{result['prefect_flow_run_id']}")
    assert flow["name"] == result["name"]


def test_one_changed_line_is_different_and_names_the_stage_and_what_came_out(line: SmallLine) -> None:
    source = line.root / "stage.py"
    source.write_text(source.read_text().replace("{name} {seed}", "{name} {seed}{'!' * (stage == 'finetune')}"))
    line.commit("another weight")
    result = line.reproduce("models:/mmfs-vqa/1", "HEAD")
    assert result["identical"] is False
    assert result["stages_run"] == STAGES
    first = result["differences"][0]
    assert (first["stage"], first["what"]) == ("finetune@vqa", "weights")
    assert ("evaluate@vqa", "metric question_accuracy") in [(row["stage"], row["what"]) for row in result["differences"]]
    assert {row["stage"] for row in result["differences"]} == {"finetune@vqa", "evaluate@vqa"}


def test_an_unknown_model_is_named(line: SmallLine) -> None:
    with pytest.raises(AssertionError, match="mmfs-vqa has no version with the alias 'best'"):
        line.reproduce("models:/mmfs-vqa@best")
