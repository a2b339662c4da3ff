"""Runs in worktrees of a real repository, with real DVC and a real MLflow store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_line import SOURCE, dvc, environment, git, make_line

from components.run.dvc_remote import cache_folder, remote_address
from components.run.events import Event, read_events
from components.run.failures import FailureClass, StageError
from components.run.lineage import LineageRecord, make_lineage, verify_lineage
from components.run.parameters import resolve
from components.run.stage import StageOutcome, StageRunner
from components.run.workspace import Workspace, open_workspace
from components.settings import Settings
from components.tracking.mlflow_run import children, close_run, connect, open_run

STAGES = ("prepare", "train@vqa", "train@story")


@pytest.fixture(scope="module", autouse=True)
def _clean_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith(("MMFS_", "MLFLOW_", "DVC_", "TINY_")):
                environment.delenv(name)
        environment.setenv("PYTHONPATH", str(SOURCE))
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    root = make_line(tmp_path_factory.mktemp("line") / "repo")
    shutil.copyfile(migrated_store, root / "mlflow.db")
    return root


@pytest.fixture
def settings(template: Path, tmp_path: Path) -> Settings:
    return Settings(root=shutil.copytree(template, tmp_path / "a folder" / "repo"))


@pytest.fixture(scope="module")
def finished_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "repo"
    shutil.copytree(template, root)
    workspace = open_line(Settings(root=root))
    whole_run(workspace)
    workspace.close("finished")
    return root


@pytest.fixture
def finished(finished_template: Path, tmp_path: Path) -> Settings:
    """A repository in which one run was made."""
    return Settings(root=shutil.copytree(finished_template, tmp_path / "a folder" / "repo"))


def open_line(settings: Settings, fresh: bool = False, **values: object) -> Workspace:
    resolved = resolve(settings.root, overrides=[f"{key.replace('__', '.')}={value}" for key, value in values.items()])
    workspace = open_workspace(settings, resolved, fresh)
    if not workspace.paths.input.exists():
        shutil.copytree(settings.root / "data" / "input", workspace.paths.input)
    return workspace


def runner(workspace: Workspace, parent: str | None = None) -> StageRunner:
    return StageRunner(workspace.checkout, workspace.files, workspace.settings, parent, workspace.run_id, grace_s=20)


def whole_run(workspace: Workspace, parent: str | None = None) -> list[StageOutcome]:
    outcomes = [runner(workspace, parent).run(name) for name in STAGES]
    assert [outcome.failure for outcome in outcomes] == [None, None, None]
    return outcomes


def test_a_run_is_tracked_archived_and_cached_the_next_time(settings: Settings) -> None:
    client = connect(settings)
    workspace = open_line(settings)
    parent = open_run(client, settings, workspace.run_id, {})
    assert [outcome.status for outcome in whole_run(workspace, parent)] == ["Completed"] * 3
    archived = runner(workspace).run_module("archive", "components.run.archive", [workspace.run_id])
    assert archived.failure is None
    lineage = make_lineage(workspace, STAGES)
    workspace.close("finished")
    close_run(client, parent, "FINISHED")

    by_stage = {run.data.tags["mmfs.stage"]: run for run in children(client, parent)}
    assert set(by_stage) == set(STAGES)
    vqa = by_stage["train@vqa"]
    assert vqa.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(vqa.info.run_id, "loss")][:5] == [1, 2, 3, 4, 5]
    assert vqa.data.params["pretrain.steps"] == str(resolve(settings.root)["pretrain"]["steps"])
    assert vqa.inputs.dataset_inputs[0].dataset.digest == lineage.data["outputs/index"]
    assert vqa.data.tags["mmfs.stage_key"] == lineage.stage_keys["train@vqa"]
    assert not list(settings.home.spools.iterdir())
    assert workspace.run_id in dvc(settings.root, "exp", "list", "--name-only").stdout
    assert not workspace.checkout.exists()
    assert git(settings.root, "status", "--porcelain") == ""
    assert verify_lineage(lineage, settings.root, workspace.files.folder / "dvc.lock") == []

    lineage.write(workspace.files.lineage)
    assert LineageRecord.read(workspace.files.lineage) == lineage
    workspace.files.lineage.write_text(workspace.files.lineage.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(StageError, match="does not match its digest"):
        LineageRecord.read(workspace.files.lineage)

    again = open_line(settings)
    assert again.run_id != workspace.run_id
    assert [outcome.name for outcome in runner(again).restore(STAGES)] == list(STAGES)
    assert make_lineage(again, STAGES).digest == lineage.digest
    assert [outcome.status for outcome in whole_run(again)] == ["Cached"] * 3
    again.close("finished")


def test_restore_stops_at_the_first_stage_that_must_run(finished: Settings) -> None:
    other = open_line(finished, pretrain__steps=60)
    other.paths.dvc_lock.write_text("schema: '2.0'\nstages:\n  prepare:\n    cmd:")  # as a kill leaves it
    assert [outcome.name for outcome in runner(other).restore(STAGES)] == ["prepare"]
    assert [outcome.status for outcome in whole_run(other)] == ["Cached", "Completed", "Completed"]
    assert json.loads((other.paths.outputs / "train" / "vqa" / "metrics.json").read_text()) == {"loss": 1 / 60}
    other.close("finished")


def test_a_model_whose_bytes_are_gone_is_no_hit(settings: Settings) -> None:
    client = connect(settings)
    workspace = open_line(settings)
    parent = open_run(client, settings, workspace.run_id, {})
    whole_run(workspace, parent)
    shutil.rmtree(settings.root / "mlartifacts")
    assert runner(workspace, parent).run("train@vqa").status == "Cached", "this machine's copy goes back to MLflow"
    assert list((settings.root / "mlartifacts").rglob("config.json"))
    shutil.rmtree(settings.root / "mlartifacts")
    shutil.rmtree(settings.home.weights)
    assert [outcome.name for outcome in runner(workspace, parent).restore(STAGES)] == ["prepare"]
    assert runner(workspace, parent).run("train@vqa").status == "Completed"
    assert runner(workspace, parent).run("train@vqa").status == "Cached"
    workspace.close("finished")


def test_forced_stages_really_run(finished: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = open_line(finished)
    assert len(runner(workspace).restore(STAGES)) == 3
    monkeypatch.setenv("MMFS_WORK", str(tmp_path / "empty"))
    forced = StageRunner(workspace.checkout, workspace.files, Settings(root=finished.root), None, workspace.run_id)
    assert forced.run("train@vqa", force=True).status == "Completed"
    workspace.close("finished")


def test_a_stage_that_fails_says_why(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fail").touch()
    monkeypatch.setenv("TINY_FAIL", str(tmp_path / "fail"))
    client = connect(settings)
    workspace = open_line(settings)
    parent = open_run(client, settings, workspace.run_id, {})
    assert runner(workspace, parent).run("prepare").status == "Completed"
    outcome = runner(workspace, parent).run("train@vqa")
    assert (outcome.status, outcome.failure.failure if outcome.failure else None) == ("Failed", FailureClass.NON_FINITE)
    assert outcome.failure is not None
    assert outcome.failure.fix == "lower the learning rate"
    assert "non_finite: loss is NaN" in workspace.files.log("train@vqa").read_text()
    failed = next(run for run in children(client, parent) if run.data.tags["mmfs.stage"] == "train@vqa")
    assert (failed.info.status, failed.data.tags["mmfs.failure"]) == ("FAILED", "non_finite")
    (tmp_path / "fail").unlink()
    assert runner(workspace, parent).run("train@vqa").status == "Completed"
    resumed = client.get_run(failed.info.run_id)
    assert (resumed.info.status, resumed.data.tags["mmfs.restarts"]) == ("FINISHED", "1")
    workspace.close("finished")


def test_a_missing_input_is_dvcs_own_line(settings: Settings) -> None:
    workspace = open_line(settings)
    shutil.rmtree(workspace.paths.input)
    outcome = runner(workspace).run("prepare")
    assert outcome.failure is not None
    assert "data/input" in outcome.failure.message
    workspace.close("failed")


class Stop(Exception):
    """Raised in the thread that runs a stage, as a signal handler would."""


def test_an_exception_in_the_flow_stops_the_whole_group_and_the_work_is_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_SLEEP", "0.5")
    client = connect(settings)
    workspace = open_line(settings)
    parent = open_run(client, settings, workspace.run_id, {})
    runner(workspace, parent).run("prepare")

    def stop(event: Event) -> None:
        if event.name == "progress" and event.values["done"] == 2:
            raise Stop

    with pytest.raises(Stop):
        runner(workspace, parent).run("train@vqa", stop)
    assert _stage_processes(workspace) == []
    events = read_events(workspace.files.events("train@vqa"))
    assert (events[-1].name, events[-1].values["class"]) == ("failed", "preempted")
    killed = next(run for run in children(client, parent) if run.data.tags["mmfs.stage"] == "train@vqa")
    assert killed.info.status == "KILLED"
    monkeypatch.setenv("TINY_SLEEP", "0")
    assert runner(workspace, parent).run("train@vqa").status == "Completed"
    steps = [point.step for point in client.get_metric_history(killed.info.run_id, "loss") if point.step < 5]
    assert steps == [1, 2, 3, 4]
    workspace.close("finished")


FLOW = """
import sys
sys.path.insert(0, {tests!r})
from test_run_workspace import open_line, runner
from components.settings import Settings
workspace = open_line(Settings(root={root!r}))
print(workspace.run_id, workspace.resumed, flush=True)
for name in ("prepare", "train@vqa"):
    outcome = runner(workspace).run(name)
    print(name, outcome.status, flush=True)
workspace.close("finished")
"""


def test_after_a_kill_the_same_command_takes_up_its_run(settings: Settings) -> None:
    program = FLOW.format(tests=str(Path(__file__).parent), root=str(settings.root))
    slow = environment(settings.root, TINY_SLEEP="0.5")
    first = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=slow, cwd=SOURCE)
    assert first.stdout is not None
    run_id = first.stdout.readline().split()[0]
    events = settings.home.run(run_id).events("train@vqa")
    _wait(lambda: any(event.name == "progress" and event.values["done"] >= 2 for event in read_events(events)))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _wait(lambda: read_events(events)[-1].name == "failed")
    again = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(settings.root), cwd=SOURCE, check=False
    )
    assert again.stdout.splitlines() == [f"{run_id} True", "prepare Cached", "train@vqa Completed"], again.stderr
    done = [event.values["done"] for event in read_events(events) if event.name == "progress"]
    assert done == sorted(set(done))


def test_two_runs_at_once_compute_a_shared_stage_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_SLEEP", "0.4")
    workspaces = [open_line(settings, pretrain__steps=5, pretrain__warmup_steps=1) for _ in range(2)]
    assert workspaces[0].run_id != workspaces[1].run_id
    outcomes: dict[str, list[StageOutcome]] = {}
    threads = [threading.Thread(target=lambda one=one: outcomes.update({one.run_id: whole_run(one)})) for one in workspaces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = zip(*(outcomes[one.run_id] for one in workspaces), strict=True)
    assert [sorted(outcome.status for outcome in pair) for pair in both] == [["Cached", "Completed"]] * 3
    digests = [make_lineage(one, STAGES).digest for one in workspaces]
    assert digests[0] == digests[1]
    for one in workspaces:
        one.close("finished")


def test_uncommitted_source_goes_along_as_a_patch_and_parameters_do_not_count(settings: Settings) -> None:
    (settings.root / "params.yaml").write_text((settings.root / "params.yaml").read_text().replace("seed: 0", "seed: 4"))
    clean = open_line(settings)
    assert clean.changed_files == 0
    assert resolve(clean.checkout)["seed"] == 4
    clean.close("failed")
    stage = settings.root / "stages" / "train.py"
    stage.write_text(stage.read_text() + "# changed\n")
    (settings.root / "stages" / "new one.py").write_text("x = 1\n")
    dirty = open_line(settings)
    assert dirty.changed_files == 2
    assert (dirty.checkout / "stages" / "train.py").read_text().endswith("# changed\n")
    assert (dirty.checkout / "stages" / "new one.py").exists()
    whole_run(dirty)
    assert not make_lineage(dirty, STAGES).promotable
    assert runner(dirty).run_module("archive", "components.run.archive", [dirty.run_id]).failure is None
    dirty.close("finished")
    assert b"# changed" in dirty.files.patch.read_bytes()
    revision = dvc(settings.root, "exp", "list", "--name-only").stdout.split()
    assert revision == [dirty.run_id]


def test_the_worktree_uses_the_cache_and_remotes_of_the_repository(settings: Settings) -> None:
    workspace = open_line(settings)
    assert cache_folder(workspace.checkout) == settings.root / ".dvc" / "cache"
    assert remote_address(workspace.checkout) == str(settings.root / ".mmfs" / "remote")
    workspace.close("failed")
    elsewhere = open_workspace(Settings(root=settings.root, remote="s3://bucket/prefix"), resolve(settings.root))
    assert remote_address(elsewhere.checkout) == "s3://bucket/prefix"
    elsewhere.close("failed")


@pytest.mark.parametrize(("prepare", "words"), [("nothing", "no git repository"), ("init", "no commit"), ("no dvc", "no .dvc/config")])
def test_a_folder_that_is_no_repository_is_named(tmp_path: Path, prepare: str, words: str) -> None:
    shutil.copyfile(SOURCE / "params.yaml", tmp_path / "params.yaml")
    if prepare != "nothing":
        git(tmp_path, "init", "-q")
    if prepare == "no dvc":
        git(tmp_path, "add", "params.yaml")
        git(tmp_path, "commit", "-q", "-m", "start")
    with pytest.raises(StageError, match=words):
        open_workspace(Settings(root=tmp_path), resolve(tmp_path))
    assert not list((tmp_path / ".mmfs").glob("worktrees/*"))


def _stage_processes(workspace: Workspace) -> list[str]:
    here = str(workspace.checkout)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "cwd") == here:
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


def _wait(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)
