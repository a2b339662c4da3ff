"""An evaluation from shards and weights to its outs, with real generating ranks; the models are untrained, so only the form is judged."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from components import evaluate, prepare
from components.data.index import Index
from components.data.sources.digits import export_digits
from components.evaluation.answer_log import read_answers
from components.evaluation.estimates import Estimate, read_metrics
from components.evaluation.illustration import read_illustrations
from components.evaluation.manifest import Manifest
from components.launch.warm import warm_ranks
from components.params import COMPOSED_KINDS, TASKS, Params, load
from components.run.events import EventWriter, read_events
from components.run.failures import StageError
from components.run.main import StageContext
from components.run.paths import Paths
from components.run.work import WorkFolder
from components.settings import Settings
from components.tracking.weights import describe_weights
from model.build import build_model, save_model
from model.presets import preset

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"caption": 3, "question": 4, "multi": 4, "referring": 4, "segmentation": 4, "story": 3}


class Tracking:
    """What an evaluation tells MLflow."""

    def __init__(self) -> None:
        self.artifacts: list[str] = []
        self.tags: dict[str, object] = {}

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts.append(f"{folder}/{path.name}")

    def set_tags(self, tags: dict[str, object]) -> None:
        self.tags |= tags


def params() -> Params:
    values = load(ROOT / "params.yaml").model_dump(mode="json")
    values["evaluate"] |= {"documents": COUNTS, "batch_documents": 3, "bootstrap": 100, "frames_per_story": 2, "told_stories": 2}
    values["evaluate"]["sampling"] |= {"steps": 2, "max_new_tokens": 6, "max_pictures": 2}
    values["data"] |= {"documents": dict.fromkeys(COMPOSED_KINDS, 12), "evaluation_documents": dict.fromkeys(COMPOSED_KINDS, 6)}
    return Params.model_validate(values)


def context(root: Path, name: str) -> StageContext:
    work = WorkFolder(root / "work" / name, root)
    work.body.mkdir(parents=True, exist_ok=True)
    settings = Settings(root=root, tracking_uri="sqlite:///unused")
    parts = {"work": work, "events": EventWriter(root / f"{name}.jsonl"), "tracking": Tracking(), "settings": settings, "device": "cpu"}
    return cast(StageContext, SimpleNamespace(name=name, key="k", **parts))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus, and untrained weights of every stage where `fetch_weights` finds them."""
    root = tmp_path_factory.mktemp("evaluate a model")
    paths, settings = Paths(root), Settings(root=root, tracking_uri="sqlite:///unused")
    export_digits(paths.input / "digits")
    prepare.run(params(), paths, context(root, "prepare"))
    vocabulary = Index(paths.index).tokenizer.vocab_size
    for seed, out in enumerate((paths.pretrain, *map(paths.finetune, TASKS))):
        folder = root / "export" / str(seed)
        save_model(build_model(preset("smoke", vocab_size=vocabulary), seed), folder)
        record = describe_weights(folder)
        settings.home.weights.mkdir(parents=True, exist_ok=True)
        folder.rename(settings.home.weights / record.model_digest)
        out.mkdir(parents=True)
        record.write(out / "weights.json")
    return root


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ranks are forked, as in a run: importing the libraries for each takes longer than what they do here."""
    log = tmp_path_factory.mktemp("warm") / "zygote.log"
    with warm_ranks(os.environ, Path.cwd(), log) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def evaluated(world: Path) -> dict[str, StageContext]:
    """Every task evaluated once."""
    stages = {task: context(world, f"evaluate-{task}") for task in TASKS}
    for task in TASKS:
        evaluate.run(params(), Paths(world), stages[task], task=task)
    return stages


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


EXPECTED = {
    "vqa": ({"question_accuracy", "two_picture_accuracy", "cider"}, COUNTS["question"] + COUNTS["multi"] + COUNTS["caption"]),
    "grounding": ({"box_accuracy", "parse_rate"}, COUNTS["referring"]),
    "segmentation": ({"miou", "digit_miou"}, COUNTS["segmentation"]),
    "story": (
        {"picture_accuracy", "digit_accuracy", "zero_shot_picture_accuracy", "zero_shot_digit_accuracy"}
        | {"placement_accuracy", "stop_accuracy", "text_picture_agreement"},
        COUNTS["story"] * 4 + 2,
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_an_evaluation_leaves_what_its_readers_need(world: Path, evaluated: dict[str, StageContext], task: str) -> None:
    out, stage = Paths(world).evaluation(task), evaluated[task]
    metrics, samples = EXPECTED[task]
    assert set(read_metrics(out / "metrics.json")) == metrics
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    manifest = Manifest.read(out / "manifest.json")
    assert [row["sample"] for row in rows] == [request.id for request in manifest.requests]
    assert len(rows) == samples
    pictures = {item["file"] for row in rows for item in row["generated"] if item["type"] == "image"}
    assert pictures == {path.name for path in (out / "generated").iterdir()}
    assert len(read_illustrations(out / "illustrations.json")) == len(list((out / "pictures").iterdir())) > 0
    tracking = cast(Tracking, stage.tracking)
    assert tracking.tags == {"mmfs.manifest": manifest.sha256}
    assert len(tracking.artifacts) == len(list((out / "pictures").iterdir()))
    progress = [event.values["done"] for event in read_events(world / f"evaluate-{task}.jsonl") if event.name == "progress"]
    assert progress == sorted(progress)
    assert progress[-1] == samples


@pytest.mark.usefixtures("evaluated")
def test_every_picture_asked_for_was_drawn_and_judged_with_its_ceiling(world: Path) -> None:
    metric = read_metrics(Paths(world).evaluation("story") / "metrics.json")["picture_accuracy"]
    assert isinstance(metric, Estimate)
    assert metric.n == COUNTS["story"] * 2
    assert metric.ceiling is not None
    assert metric.ceiling > 0.9


@pytest.mark.usefixtures("evaluated")
def test_a_killed_evaluation_goes_on_and_leaves_the_same_bytes(world: Path) -> None:
    out = Paths(world).evaluation("segmentation")
    expected = digests(out)
    folder = context(world, "torn").work / "answers"
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(world), str(ROOT)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while not read_answers(folder) and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    known = read_answers(folder)
    assert known
    shutil.rmtree(out)
    evaluate.run(params(), Paths(world), context(world, "torn"), task="segmentation")
    assert digests(out) == expected


KILLED = """
import sys
sys.path.insert(0, sys.argv[2] + "/tests/components")
from pathlib import Path
from test_evaluate import context, params
from components import evaluate
from components.run.paths import Paths
evaluate.run(params(), Paths(Path(sys.argv[1])), context(Path(sys.argv[1]), "torn"), task="segmentation")
"""


def test_a_rank_that_fails_is_named_with_its_last_words(world: Path) -> None:
    stage = context(world, "broken")
    record = json.loads((Paths(world).finetune("grounding") / "weights.json").read_text())
    folder = stage.settings.home.weights / record["model_digest"]
    config = (folder / "config.json").read_text()
    out = Paths(world).finetune("vqa")
    broken = out / "weights.json"
    kept = broken.read_text()
    try:
        (folder / "config.json").write_text("{}")
        broken.write_text(describe_weights(folder).model_copy(update={"model_digest": record["model_digest"]}).model_dump_json())
        with pytest.raises(StageError, match="generating process"):
            evaluate.run(params(), Paths(world), stage, task="vqa")
    finally:
        (folder / "config.json").write_text(config)
        broken.write_text(kept)


def test_without_held_out_documents_the_fix_is_named(world: Path) -> None:
    values = params()
    none = values.model_copy(update={"evaluate": values.evaluate.model_copy(update={"documents": {"story": 0}})})
    with pytest.raises(StageError, match="no held-out documents of kind story") as caught:
        evaluate.run(none, Paths(world), context(world, "none"), task="story")
    assert "evaluate.documents" in caught.value.fix


def test_an_unknown_task_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluate.main(["poetry"])
    assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_supervisors_of_evaluation_and_report_import_no_torch() -> None:
    code = "import sys, components.evaluate, components.report; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode == 0
