"""Stage `pretrain`: a model from nothing, or from what `init_from` says. `python -m components.pretrain` imports no torch."""

from __future__ import annotations

import json
import sys
from functools import partial

from components.adopt import adopt
from components.architecture import architecture, check_trainable, stage_architecture
from components.data.index import INDEX_FILE
from components.params import Params
from components.results import TrainResult
from components.run.failures import FailureClass, StageError
from components.run.main import StageContext, stage_main
from components.run.paths import Paths
from components.starts import begin
from components.training.supervise import train
from model.config import ConfigError, ModelConfig
from model.presets import NEEDS_GPU


def run(params: Params, paths: Paths, context: StageContext) -> TrainResult:
    """Train the model of `params.model` on the prepared corpus into outputs/pretrain. Raises StageError."""
    check_device(params.model.preset, context.device)
    start = begin(params, "pretrain", paths, context, partial(stage_config, params, paths, "pretrain"))
    if not params.pretrain.steps:
        return adopt(paths, context, paths.pretrain, start)
    return train(params, paths, context, "pretrain", paths.pretrain, start)


def stage_config(params: Params, paths: Paths, stage: str) -> ModelConfig:
    """The model of a training stage, for the tokenizer of the prepared corpus. Raises StageError (bad_config, bad_data)."""
    try:
        return stage_architecture(params, stage, model_config(params, paths))
    except ConfigError as error:
        raise StageError(FailureClass.BAD_CONFIG, str(error), f"change {params.training_key(stage)}.image_px in params.yaml") from None


def model_config(params: Params, paths: Paths) -> ModelConfig:
    """The architecture for the tokenizer of the prepared corpus. Raises StageError (bad_config, bad_data)."""
    try:
        vocabulary = json.loads((paths.index / INDEX_FILE).read_text(encoding="utf-8"))["tokenizer"]["vocab_size"]
    except (OSError, ValueError, KeyError) as error:
        raise StageError(FailureClass.BAD_DATA, f"{paths.index / INDEX_FILE} cannot be read: {error}", "run `dvc repro prepare`") from None
    try:
        config = architecture(params.model, vocabulary)
        check_trainable(params, config)
    except ConfigError as error:
        raise StageError(FailureClass.BAD_CONFIG, str(error), "change `model` in params.yaml") from None
    check_row(config.shape.max_row_tokens, params.pretrain.row_tokens, "pretrain")
    return config


def check_device(preset: str, device: str) -> None:
    """Raises StageError (bad_config) for a preset of billions of parameters where there is no GPU."""
    if preset in NEEDS_GPU and device == "cpu":
        fix = "train it where there are GPUs, or set model.preset to official_tiny, the same architecture at a size for this machine"
        raise StageError(FailureClass.BAD_CONFIG, f"model.preset: {preset} has billions of parameters and this machine has no GPU", fix)


def check_row(model_tokens: int, row_tokens: int, stage: str) -> None:
    """Raises StageError (bad_config) when rows are longer than the model's positions."""
    if row_tokens > model_tokens:
        message = f"{stage}.row_tokens is {row_tokens}, the model has {model_tokens} positions"
        raise StageError(FailureClass.BAD_CONFIG, message, f"set it to at most {model_tokens}")


if __name__ == "__main__":
    sys.exit(stage_main("pretrain", run))
