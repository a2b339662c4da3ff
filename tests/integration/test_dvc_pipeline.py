"""dvc.yaml tells the truth: its code lists are the imports, its parameters exist, its outs are where the components write."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.params import TASKS, read_mapping
from components.run.codedeps import import_closure, rewrite
from components.run.key import stage_inputs
from components.run.paths import Paths
from components.run.pipeline import StageSpec, read_pipeline

ROOT = Path(__file__).parents[2]
PIPELINE = read_pipeline(ROOT / "dvc.yaml")
STAGES = ("prepare", "pretrain", *(f"finetune@{task}" for task in TASKS), *(f"evaluate@{task}" for task in TASKS))


def test_the_line_has_these_stages_in_this_order() -> None:
    assert tuple(PIPELINE) == STAGES


def test_code_lists_are_the_import_closure() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert rewrite(text, import_closure(ROOT)) == text, "run python -m components.run.codedeps --write"


def test_a_changed_import_changes_the_list() -> None:
    text = "stages:\n  a:\n    deps:\n      - data\n      # code of a.b\n      - old.py\n      - data/x.csv\n"
    expected = text.replace("      - old.py\n", "      - a/b.py\n      - a/c.py\n")
    assert rewrite(text, lambda modules: ["a/b.py", "a/c.py"] if modules == ["a.b"] else []) == expected


@pytest.mark.parametrize("stage", PIPELINE.values(), ids=lambda stage: stage.name)
def test_a_stage_declares_what_it_reads(stage: StageSpec) -> None:
    assert "requirements.lock" in stage.deps
    assert "seed" in stage.params
    assert not [path for path in stage.deps if path.startswith("outputs/shards")]
    values = read_mapping(ROOT / "params.yaml")
    inputs = stage_inputs(StageSpec(stage.name, stage.cmd, (), stage.params, stage.outs), ROOT, values, "cpu")
    assert set(inputs.params) == set(stage.params)
    for path in stage.deps:
        assert path.startswith(("data/", "outputs/")) or (ROOT / path).is_file(), path


def test_outs_are_where_the_components_write() -> None:
    paths = Paths(Path())
    assert {Path(out) for out in PIPELINE["prepare"].outs} == {paths.index, paths.shards}
    assert [Path(out) for out in PIPELINE["pretrain"].outs] == [paths.pretrain]
    for task in TASKS:
        assert [Path(out) for out in PIPELINE[f"finetune@{task}"].outs] == [paths.finetune(task)]
        assert [Path(out) for out in PIPELINE[f"evaluate@{task}"].outs] == [paths.evaluation(task)]


def test_dvc_reads_the_file_as_we_do() -> None:
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        known = {stage.addressing: stage for stage in repo.index.stages if stage.cmd}
    assert set(known) == set(PIPELINE)
    for name, stage in known.items():
        assert stage.cmd == PIPELINE[name].cmd
        assert {out.def_path for out in stage.outs} == set(PIPELINE[name].outs)
        assert {dep.def_path for dep in stage.deps if dep.def_path != "params.yaml"} == set(PIPELINE[name].deps)
