"""A training stage of no steps: the weights that it starts from become its outs as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from components.data.index import TOKENIZER_FILE
from components.results import TrainResult
from components.run.failures import FailureClass, StageError
from components.run.filetree import link_tree, whole_folder
from components.run.main import StageContext
from components.run.paths import Paths
from components.starts import CONFIG_FILE, Started
from components.tracking.weights import WEIGHTS_FILE, describe_weights, publish_weights
from components.training.supervise import LOSSES_FILE, METRICS_FILE, write_curve
from model.config import load_config, save_config


def adopt(paths: Paths, context: StageContext, out: Path, start: Path | dict[str, Any] | Started) -> TrainResult:
    """Publish the weights of `start`, with the tokenizer of the corpus beside them, as what the stage came to.

    Weights that were published before keep their digest. Raises StageError.
    """
    if isinstance(start, dict):
        raise StageError(FailureClass.BAD_CONFIG, f"{context.name} has no steps and starts from nothing", "set `init_from`")
    export = context.work / "export"
    with whole_folder(export) as fresh:
        _copy(start.weights if isinstance(start, Started) else start, fresh)
        if isinstance(start, Started):
            _configure(start, fresh)
        if not (fresh / TOKENIZER_FILE).exists():
            shutil.copyfile(paths.index / TOKENIZER_FILE, fresh / TOKENIZER_FILE)
    weights = describe_weights(export)
    fresh = context.work / "out"
    fresh.mkdir(exist_ok=True)
    weights.write(fresh / WEIGHTS_FILE)
    (fresh / METRICS_FILE).write_text(json.dumps({}) + "\n", encoding="utf-8")
    write_curve([], fresh / LOSSES_FILE)
    publish_weights(export, weights, context.tracking, context.settings)
    context.work.publish(fresh, out)
    return TrainResult(summary=f"not trained: weights {weights.model_digest[:12]} as they are", model_digest=weights.model_digest, steps=0)


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if not path.name.startswith("."):
            link_tree(path, target / path.name)


def _configure(start: Started, folder: Path) -> None:
    """Have the folder say what the run says of the model, where that is something else than the weights came with."""
    file = folder / CONFIG_FILE
    found = load_config(file)
    if found == start.config:
        return
    if found.vision.image_px != start.config.vision.image_px:
        message = f"the weights are for pictures of {found.vision.image_px} pixels and the run asks for {start.config.vision.image_px}"
        raise StageError(FailureClass.BAD_CONFIG, message, "set image_px to theirs, or train at least a step")
    file.unlink()  # a second name of the original
    save_config(start.config, file)
