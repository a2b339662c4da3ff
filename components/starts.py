"""What a training stage starts from, found, verified and compared with the model that is asked for. Imports no torch.

A start from outside is pinned: its digest stands in the stage's parameters, and so in its key. Nothing else is ever taken in its place.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.architecture import architecture, stage_architecture
from components.data.index import TOKENIZER_FILE
from components.data.tokenizer import Tokenizer
from components.params import Params
from components.run.failures import FailureClass, StageError, from_exit_code
from components.run.main import StageContext
from components.run.paths import Paths
from components.settings import Settings
from components.start import Start
from components.tracking.weights import WEIGHTS_FILE, WeightsRecord, fetch_digest, fetch_weights, folder_digest
from model.ablations import trained_at_input
from model.config import ConfigError, ModelConfig, load_config

CONFIG_FILE = "config.json"
ROLES = ("vision", "language", "diffusion")
START_TAG = "mmfs.init_from"
_SHOWN = 4
_BEGINS = (
    *("init_std", "embedding_std", "visual_init_std", "frozen_head_bias", "new_head_bias", "vision.injector_gamma"),
    *("vision.radial_offsets", "language.gate_init", "language.start", "image_decoder.conv_init", "image_decoder.quiet_start"),
)
_LOOKS = ("visible_images", "decoder_images", "attention", "pad_id", "vision.double_stem", "vision.path", "language.max_positions")
_LEARNS = ("text_loss_weight", "image_loss_weight", "text_loss_mean", "image_loss_mean", "min_context_tokens", "condition_drop")
_SAMPLERS = ("path", "linears", "offset_init", "offset_start")
_RESAMPLERS = ("dropout", "queries_start")
_MAY_DIFFER = frozenset(
    [
        *(*_BEGINS, *_LOOKS, *_LEARNS),
        *(f"{part}.mmfs.{name}" for part in ("language", "image_decoder") for name in _SAMPLERS),
        *(f"{part}.{name}" for part in ("visual_resampler", "image_decoder.resampler") for name in _RESAMPLERS),
    ]
)
"""How a model begins, learns and looks, which the tensors do not depend on: there the parameters of the run count."""


@dataclass(frozen=True)
class Started:
    """A folder of weights, and the model that they are loaded into."""

    weights: Path
    config: ModelConfig


def begin(
    params: Params, stage: str, paths: Paths, context: StageContext, configure: Callable[[], ModelConfig]
) -> Path | dict[str, Any] | Started:
    """What `stage` begins with: a configuration for a model from nothing, the weights of pretraining, or weights from outside.

    `configure` gives the stage's own model, and is asked where the weights do not bring it with them. Raises StageError: bad_config for a
    start that is not pinned or does not fit, bad_data for one whose content is gone or another.
    """
    start = params.start(stage)
    if start.kind == "stage":
        return fetch_weights(WeightsRecord.read(paths.pretrain / WEIGHTS_FILE), context.settings)
    config = configure()
    if start.kind == "scratch":
        return config.to_dict()
    context.tracking.set_tags({START_TAG: str(start)})
    key = f"{params.training_key(stage)}.init_from"
    folder = verified(start, key, context.settings)
    if start.kind == "components":
        folder = _assembled(folder, config, params.seed, context)
    check_tokenizer(folder, paths.index / TOKENIZER_FILE, start)
    check_model(folder, config, start)
    return Started(folder, config)


def folder_of(start: Start, root: Path) -> Path:
    """Where `components:` and `weights:` look; relative to the repository."""
    return root / start.address


def check_folder(start: Start, root: Path, key: str) -> Path:
    """The folder of a start. Raises StageError (bad_config) where it holds no such thing, naming what is missing."""
    folder = folder_of(start, root)
    if not folder.is_dir():
        raise StageError(FailureClass.BAD_CONFIG, f"{key}: {folder} is no folder", _FIX[start.kind])
    wanted = ROLES if start.kind == "components" else (CONFIG_FILE,)
    if absent := [name for name in wanted if not (folder / name).exists()]:
        raise StageError(FailureClass.BAD_CONFIG, f"{key}: {folder} has no {', no '.join(absent)}", _FIX[start.kind])
    return folder


def check_starts(params: Params, root: Path) -> None:
    """Raises StageError for a folder that a stage cannot start from, as far as that can be told before there is a corpus."""
    for stage in params.training_stages:
        start = params.start(stage)
        if start.kind not in ("components", "weights"):
            continue
        folder = check_folder(start, root, f"{params.training_key(stage)}.init_from")
        if start.kind == "weights":
            found = _config(folder, start)
            check_model(folder, stage_architecture(params, stage, architecture(params.model, found.vocab_size)), start)


def verified(start: Start, key: str, settings: Settings) -> Path:
    """The folder whose files have the pinned digest: the one that was named, or this machine's or MLflow's copy. Raises StageError."""
    if start.digest is None:
        fix = "write what `mmfs weights pin` prints for it into params.yaml; `mmfs run` does so by itself"
        raise StageError(FailureClass.BAD_CONFIG, f"{key} is {start}, which is not held to a digest", fix)
    if start.kind == "models":
        return fetch_digest(start.digest, settings)
    folder, found = folder_of(start, settings.root), None
    if folder.is_dir() and (found := folder_digest(folder)) == start.digest:
        return folder
    if start.kind == "weights":
        try:
            return fetch_digest(start.digest, settings)
        except StageError as error:
            if error.failure is not FailureClass.BAD_DATA:
                raise
    now = "is gone" if found is None else f"has the digest {found[:12]} now"
    message = f"{key}: {folder} {now}, this run starts from what had {start.digest[:12]}"
    raise StageError(FailureClass.BAD_DATA, message, "put it back, or begin a new run with `mmfs run`, which takes what is there")


def check_tokenizer(folder: Path, tokenizer: Path, start: Start) -> None:
    """Raises StageError (bad_config) where weights were trained with other ids for words. A folder that has no tokenizer is not asked."""
    own = folder / TOKENIZER_FILE
    if own.is_file() and Tokenizer.load(own).sha256 != Tokenizer.load(tokenizer).sha256:
        message = f"{start.spec} was trained with another tokenizer than this corpus was prepared with: the same ids are other words"
        raise StageError(FailureClass.BAD_CONFIG, message, f"set data.tokenizer to {own}")


def check_model(folder: Path, config: ModelConfig, start: Start) -> None:
    """Raises StageError (bad_config) naming what the model in `folder` has otherwise than `config`."""
    found = _config(folder, start)
    if found.vocab_size != config.vocab_size:
        message = f"{start.spec} has {found.vocab_size} entries in its vocabulary, the tokenizer of this corpus has {config.vocab_size}"
        fix = "set data.tokenizer to the tokenizer.json that the weights were trained with"
        raise StageError(FailureClass.BAD_CONFIG, message, fix)
    try:
        resized = trained_at_input(found, config.vision.image_px)
    except ConfigError as error:
        raise StageError(FailureClass.BAD_CONFIG, f"{start.spec}: {error}", "set image_px to what the weights were trained at") from None
    if rows := list(differences(resized.to_dict(), config.to_dict())):
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        told = "; ".join(f"{name} is {have!r}, params.yaml says {want!r}" for name, have, want in rows[:_SHOWN])
        fix = "set `model` in params.yaml to what the weights are"
        raise StageError(FailureClass.BAD_CONFIG, f"{start.spec} is another model: {told}{more}", fix)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, found, wanted) of what two configurations have otherwise and a run may not choose."""
    have, want = dict(_flat(found)), dict(_flat(wanted))
    for name in sorted(have.keys() | want.keys()):
        if name not in _MAY_DIFFER and have.get(name) != want.get(name):
            yield name, have.get(name), want.get(name)


def _config(folder: Path, start: Start) -> ModelConfig:
    try:
        return load_config(folder / CONFIG_FILE)
    except (ConfigError, OSError) as error:
        raise StageError(FailureClass.BAD_DATA, f"{start.spec}: {error}", "name the folder of a model") from None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _assembled(folder: Path, config: ModelConfig, seed: int, context: StageContext) -> Path:
    """A model put together from public components in a child, for which torch is needed; kept for the next attempt of the stage."""
    target = context.work / "start"
    if target.is_dir():
        return target
    asked = json.dumps({"folder": str(folder), "target": str(target), "config": asdict(config), "seed": seed})
    done = subprocess.run([sys.executable, "-m", "components.assembly"], input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise StageError(from_exit_code(done.returncode), words[-1] if words else "the components could not be put together")
    return target


_FIX = {
    "components": "name a folder with vision/, language/ and diffusion/, each as its library saves it",
    "weights": "name a folder that `mmfs weights import` or `mmfs weights components` wrote",
}
