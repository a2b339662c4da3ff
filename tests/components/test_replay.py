"""A step executed again gives the numbers that were logged, bit for bit, and leaves the run as it was."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from stage_world import Line
from training_world import World, environment, train_params, wait

from components import pretrain
from components.checkpoints.folder import CheckpointFolder
from components.launch.local import launch_ranks
from components.launch.warm import start_warm
from components.replay import Compared, Replayed, replay
from components.replay_page import file_name, heat, modules, render
from components.run import git
from components.run.events import EventWriter
from components.run.failures import FailureClass, StageError
from components.run.parameters import as_yaml
from components.run.workspace import Request, RunRecord
from components.tracking.spool import read_points
from components.training.job import write_job
from components.training.replay.replay_rank import REPLAY_FILE, result_file

RUN, KEY, DIGEST = "20260101-000000-abcd", "c" * 64, "0123456789abcdef0123456789abcdef.dir"


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        pytest.param({"ranks": 1, "accumulate": 2}, 4, id="plain-accumulated"),
        pytest.param({"zero_stage": 3}, 4, id="zero-3", marks=pytest.mark.faults),
        pytest.param({"zero_stage": 1, "accumulate": 2}, 4, id="zero-1-accumulated", marks=pytest.mark.faults),
    ],
)
def test_ranks_repeat_a_step_bit_for_bit(shape: dict[str, int], kept: int, warm: Mapping[str, str], tmp_path: Path) -> None:
    run = World(tmp_path / "run", train_params(**shape), warm)
    assert run.attempt() is None
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    checkpoint = CheckpointFolder(run.work / "checkpoints").at(kept)
    write_job(run.job(checkpoint.path).model_copy(update={"work": scratch}))
    (scratch / REPLAY_FILE).write_text(json.dumps({"step": 6}))
    micro_batches = run.train.micro_batches(run.train.ranks)
    variables = {**warm, "ROWS_AT_ONCE": str(8 // (run.train.ranks * micro_batches))}
    with launch_ranks("replayed_rank", [str(scratch)], run.train.ranks, environment(variables), scratch / "logs", start_warm) as ranks:
        assert wait(ranks) is None, (scratch / "logs" / "rank-0.log").read_text()[-2000:]
    results = [json.loads(result_file(scratch, rank).read_text()) for rank in range(run.train.ranks)]
    assert all(result["rows"] == [{"heard": micro_batches}] for result in results), "no other forward pass was heard"
    (again,), (before,) = (
        [point for point in read_points(folder / "points.jsonl")[0] if point["step"] == 6] for folder in (scratch, run.work)
    )
    for name in ("loss", "text_loss", "image_loss", "grad_norm", "lr"):
        assert again["metrics"][name] == before["metrics"][name], name
    norm = math.sqrt(sum(one**2 for one in results[0]["norms"].values()))
    assert norm == pytest.approx(before["metrics"]["grad_norm"], rel=1e-5)
    assert len(results[0]["norms"]) == 8, "every parameter of the stand-in"
    assert not (scratch / "export").exists()


@pytest.fixture(scope="module")
def killed(warm: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A run whose process died after its pretraining and before it could say so: checkpoints and points are as they were left."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in warm.items():
            patch.setenv(name, value)
        line = Line(tmp_path_factory.mktemp("killed"))
        drawing = line.params.pretrain.model_copy(update={"mixture": {"question": 1.0, "story": 1.0}})
        line.params = line.params.model_copy(update={"pretrain": drawing})
        git.git(line.root, "init", "-q")
        git.git(line.root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "--allow-empty", "-m", "source")
        context, _ = line.context("pretrain")
        context.work.folder = line.settings.work_root / KEY
        context.work.body.mkdir(parents=True)
        pretrain.run(line.params, line.paths, context)
        files = line.settings.home.run(RUN)
        RunRecord(1, RUN, 0.0, Request(git.head(line.root), None, "")).write(files.record)
        EventWriter(files.events("pretrain")).started("pretrain", KEY)
        lock = {"schema": "2.0", "stages": {"prepare": {"outs": [{"path": "outputs/index", "md5": DIGEST}]}}}
        (files.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
        (files.folder / "params.yaml").write_text(as_yaml(line.params.model_dump(mode="json", exclude_none=True)))
        shutil.copytree(line.paths.index, line.settings.home.folder / "data" / DIGEST.removesuffix(".dir"))
        (line.root / ".dvc").mkdir()
        yield line


def _left(line: Line) -> dict[str, Any]:
    home = line.settings.home.folder
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for part in ("work", "runs") for path in (home / part).rglob("*")}


@pytest.fixture(scope="module")
def replayed(killed: Line, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    before = _left(killed)
    found = replay(killed.settings, RUN, "pretrain", 5, tmp_path_factory.mktemp("scratch"))
    assert _left(killed) == before, "nothing is written into the run"
    return found


def test_a_step_of_the_model_gives_the_logged_numbers(replayed: Replayed, killed: Line) -> None:
    assert (replayed.since, replayed.step, replayed.ranks, replayed.differing) == (4, 5, 2, ())
    assert {one.name for one in replayed.compared if one.step == 5} == {"loss", "text_loss", "image_loss", "grad_norm", "lr"}
    logged = {one.name: one.logged for one in replayed.compared if one.step == 5}
    assert replayed.mean("text") == pytest.approx(logged["text_loss"], rel=1e-5), "the losses of the tokens add up to what was logged"
    assert replayed.mean("image") == pytest.approx(logged["image_loss"], rel=1e-5)
    assert replayed.gradient_norm == pytest.approx(logged["grad_norm"], rel=1e-4)
    assert len(replayed.rows) == killed.params.pretrain.rows_per_step


def test_documents_are_told_as_the_model_read_them(replayed: Replayed, killed: Line) -> None:
    index = killed.paths.index
    assert len(replayed.documents) > len(replayed.rows)
    questions = [one for one in replayed.documents if one["documents"][0]["kind"] == "question"]
    words = "".join(word for item in questions[0]["items"] for word, _ in item.get("tokens", ()))
    assert words.startswith("<s>") and "?" in words and words.endswith("</s>"), words
    assert questions[0]["items"][1]["png"] and questions[0]["items"][1]["loss"] is None, "the picture of a question is given"
    assert any(item.get("loss") is not None for one in replayed.documents for item in one["items"]), "some pictures are drawn"
    assert (index / "index.json").is_file()


def test_the_page_shows_all_of_it_and_asks_no_network(replayed: Replayed) -> None:
    page = render(replayed, shown=3)
    assert "logged numbers, all equal bit for bit" in page
    assert f"and {len(replayed.documents) - 3} more documents" in page
    assert page.count("data:image/png;base64,") >= 1
    assert "http" not in page.replace("http-equiv", "")
    assert file_name(replayed) == f"replay-{RUN}-pretrain-5.html"


def test_what_is_gone_is_named_with_what_is_possible(killed: Line, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"pretrain has steps 1 to 6"):
        replay(killed.settings, RUN, "pretrain", 7, tmp_path / "a")
    with pytest.raises(StageError, match=f"run {RUN} has not begun finetune@vqa"):
        replay(killed.settings, RUN, "vqa", 1, tmp_path / "b")
    body = killed.settings.work_root / KEY / "body"
    aside = body.rename(tmp_path / "aside")
    try:
        with pytest.raises(StageError, match=r"the checkpoints of pretrain are gone: run .* has finished it") as caught:
            replay(killed.settings, RUN, "pretrain", 5, _made(tmp_path / "c"))
        assert caught.value.failure is FailureClass.BAD_DATA
        assert caught.value.fix == "add --from-start to execute all 5 steps again"
    finally:
        aside.rename(body)


def test_from_its_start_a_stage_is_the_same_again(killed: Line, tmp_path: Path) -> None:
    found = replay(killed.settings, RUN, "pretrain", 2, tmp_path, from_start=True)
    assert (found.since, found.differing) == (0, ())
    assert "the start of the stage" in render(found)
    assert {one.step for one in found.compared} == {1, 2}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_number_that_differs_is_shown(replayed: Replayed) -> None:
    one = Compared(5, "loss", 1.0, 1.0000000000000002)
    other = Replayed(**{**replayed.__dict__, "compared": (one,)})
    assert not one.equal and other.differing == (one,)
    assert "1 of 1 logged numbers differ" in render(other)
    assert "1.0000000000000002" in render(other)


def test_modules_are_gathered_by_layer() -> None:
    found = modules({"a.b.weight": 3.0, "a.b.bias": 4.0, "c.weight": 12.0, "d.e.layers.7.q.weight": 1.0, "d.e.layers.11.q.weight": 2.0})
    names = [(one.name, one.norm, one.parameters) for one in found]
    assert names == [("a.b", 5.0, 2), ("c.weight", 12.0, 1), ("d.e.layers.7", 1.0, 1), ("d.e.layers.11", 2.0, 1)]
    assert sum(one.share for one in found) == pytest.approx(1.0)
    assert found[0].parts == (("weight", 3.0), ("bias", 4.0))


@pytest.mark.parametrize(("loss", "told"), [(None, "transparent"), (0.0, "0%"), (2.0, "30%"), (99.0, "60%")])
def test_a_token_is_the_redder_the_dearer(loss: float | None, told: str) -> None:
    assert told in heat(loss)
