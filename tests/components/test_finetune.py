"""Stage `finetune`: what it needs is named; test_pretrain.py trains it on the model it is meant for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from components import finetune
from components.params import TASKS, load
from components.run.failures import FailureClass, StageError
from components.run.main import StageContext
from components.run.paths import Paths
from components.settings import Settings

PARAMS = Path(__file__).parents[2] / "params.yaml"


def test_without_a_pretrained_model_nothing_is_started(tmp_path: Path) -> None:
    context = cast(StageContext, SimpleNamespace(settings=Settings(root=tmp_path)))
    with pytest.raises(StageError, match=r"weights\.json does not exist") as error:
        finetune.run(load(PARAMS), Paths(tmp_path), context, task="vqa")
    assert error.value.failure is FailureClass.BAD_DATA


def test_an_unknown_task_is_refused_and_the_known_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        finetune.main(["painting"])
    complaint = capsys.readouterr().err
    assert all(task in complaint for task in TASKS)
