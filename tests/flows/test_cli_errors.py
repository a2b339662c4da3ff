"""Bad input: one clear line with the fix, a status that says what kind, and nothing written."""

import json
import socket
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from components.registry.package import UnknownModel
from flows.cli_output import explained

BAD_USAGE, BAD_DATA, NOT_FOUND, UNAVAILABLE, BAD_CONFIG = 64, 65, 66, 69, 78


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "pretrain.stepz=3"], ["pretrain.stepz", "did you mean `steps`"]),
        (["--set", "pretrain.steps=many"], ["pretrain.steps", "valid integer"]),
        (["--set", "pretrain.steps"], ["section.key=value"]),
        (["--set", "pretrain.rows_per_step=3"], ["pretrain", "multiple of ranks"]),
        (["--set", "pretrain.steps=5"], ["warmup_steps", "below steps"]),
        (["--set", "pretrain.row_tokens=9999"], ["pretrain.row_tokens", "2048 positions"]),
        (["--set", "finetune.vqa.mixture.multi=-1"], ["finetune.vqa.mixture.multi", "greater than or equal to 0"]),
        (["--set", "pretrain.learning_rate=.inf"], ["pretrain.learning_rate", "finite"]),
        (["--set", "tasks=[vqa, vqa]"], ["tasks", "twice"]),
        (["--preset", "huge"], ["params/huge.yaml", "known presets"]),
        (["--data", "."], ["documents.jsonl"]),
        (["--set", "gate.vqa.metric=foo"], ["gate.vqa.metric: 'foo' is no metric of task vqa", "question_accuracy"]),
        (["--set", "gate.vqa.metric=miou"], ["gate.vqa.metric: 'miou' is no metric of task vqa"]),
        (["--set", "gate.vqa.guards={foo: .1}"], ["gate.vqa.guards: 'foo'"]),
        (["--set", "gate.grounding.also=[parse_rate]"], ["gate.grounding.also", "no score per document", "box_accuracy"]),
        (["--set", "data.documents.referring=0"], ["finetune.grounding.mixture.referring", "data.documents.referring is 0"]),
        (["--set", "data.documents.caption=0"], ["pretrain.mixture.caption"]),
        (["--set", "finetune.vqa.offload=parameters"], ["finetune.vqa.offload is parameters", "set finetune.vqa.zero_stage=3"]),
        (["--set", "evaluate.documents.question=0"], ["gate.vqa.metric", "set evaluate.documents.question above 0"]),
        (["--set", "evaluate.documents.question=4000"], ["evaluate.documents.question is 4000", "at most 400"]),
        (["--set", "evaluate.told_stories=1000"], ["evaluate.told_stories is 1000", "at most 12"]),
        (["--tasks", "vqa,poetry"], ["tasks.1", "'vqa', 'grounding', 'segmentation' or 'story'"]),
    ],
)
def test_run_refuses_wrong_parameters_before_any_work(mmfs, repository: Path, arguments: list[str], words: list[str]) -> None:
    ended = mmfs("run", *arguments)
    assert ended.status == BAD_CONFIG
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("error: ")
    for word in words:
        assert word in ended.err
    assert not (repository / ".mmfs").exists()


def test_outside_of_a_repository(mmfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMFS_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    ended = mmfs("runs")
    assert (ended.status, ended.err.count("\n")) == (BAD_USAGE, 1)
    assert "clone" in ended.err


def test_copy_without_git(mmfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMFS_ROOT", raising=False)
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    ended = mmfs("run")
    assert (ended.status, ended.err.count("\n")) == (BAD_USAGE, 1)
    assert "is not a git repository" in ended.err


def test_no_git_installed(mmfs, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    ended = mmfs("run")
    assert (ended.status, ended.err.count("\n")) == (UNAVAILABLE, 1)
    assert "git is not installed" in ended.err
    assert "install it" in ended.err


def test_doctor_answers_outside_of_a_clone_and_without_git(mmfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMFS_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    outside = mmfs("doctor", "--json")
    assert outside.status == 1
    findings = {one["name"]: one for one in json.loads(outside.out)}
    assert (findings["git"]["state"], "git clone" in findings["git"]["fix"]) == ("missing", True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    bare = {one["name"]: one for one in json.loads(mmfs("doctor", "--json").out)}
    assert {name for name in ("git", "make", "chromium", "java") if bare[name]["detail"].startswith("not installed")} == {
        "git",
        "make",
        "chromium",
        "java",
    }
    assert (bare["sampling"]["state"], "no C++ compiler" in bare["sampling"]["detail"]) == ("limited", True)


def test_taken_port(mmfs, repository: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        ended = mmfs("up", "--prefect-port", str(port))
    assert ended.status == UNAVAILABLE
    assert ended.err.splitlines()[-1].startswith(f"error: port {port} is taken")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], BAD_USAGE, "the prompt is empty"),
        (["--text", "{image} and {image}", "--image", "params.yaml"], BAD_USAGE, "asks for 2 pictures, 1 were given"),
        (["--image", "absent.png"], NOT_FOUND, "no such picture: absent.png"),
        (["--image", "params.yaml"], BAD_DATA, "params.yaml cannot be used: not a PNG, JPEG, GIF or WEBP picture"),
        (["--text", "a story :", "--out", "story.pdf"], BAD_USAGE, "cannot write story.pdf"),
    ],
)
def test_generate_refuses_what_it_cannot_use(mmfs, repository: Path, arguments: list[str], status: int, words: str) -> None:
    ended = mmfs("generate", *arguments)
    assert ended.status == status
    assert words in ended.err.splitlines()[-1]


def test_a_dead_store_is_not_called_an_unknown_model() -> None:
    assert explained_status(MlflowException("connection refused")) == UNAVAILABLE
    assert explained_status(UnknownModel("mmfs-vqa has no version 3")) == NOT_FOUND


def explained_status(error: Exception) -> int:
    with pytest.raises(SystemExit) as ended, explained():
        raise error
    return int(ended.value.code or 0)


def test_nothing_runs_is_no_error_for_down_but_for_status(mmfs, repository: Path) -> None:
    assert mmfs("down").status == 0
    ended = mmfs("status", "--json")
    assert ended.status == 1
    assert ended.out.count('"stopped"') == 3
