"""What makes a training this one and no other, as its checkpoints tell it. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.checkpoints.identity import IDENTITY
from components.data.index import INDEX_FILE
from components.tracking.weights import describe_weights
from components.training.checkpoints.shape import Shape
from components.training.job import Job

_SCHEDULE = {"steps", "warmup_steps", "learning_rate", "final_learning_rate_factor", "betas", "eps", "weight_decay", "clip_norm"}
_OPTIMIZED = {"groups", "freeze", "ema_decay"}
_ROWS = {"rows_per_step", "row_tokens", "mixture", "packing", "rows_of", "max_images_per_row", "few_shot", "image_px", "augmentation"}
_DIGEST = re.compile(r"[0-9a-f]{64}")


def identity_of(job: Job) -> dict[str, Any]:
    """Sections `model`, `start`, `data`, `schedule`, `optimizer`, `rows` and `losses` of JSON values.

    Not in it is how the work is shared out (ranks, ZeRO stage, accumulation, precision): a training may go on with others.
    """
    dumped = job.train.model_dump(mode="json")
    return {
        "model": _digest(job.model) if job.model is not None else _digest_of(_initial(job) / "config.json"),
        "start": {"seed": job.seed, "weights": None if job.initial is None else _weights_digest(job.initial)},
        "data": {"index": _digest_of(job.index / INDEX_FILE), "window_documents": job.window_documents},
        "schedule": {name: dumped[name] for name in sorted(_SCHEDULE)},
        "optimizer": {name: dumped[name] for name in sorted(_OPTIMIZED)},
        "rows": {name: dumped[name] for name in sorted(_ROWS)},
        "losses": {"text": job.text_loss_weight, "image": job.image_loss_weight, "condition_drop": job.condition_drop},
    }


def info_of(job: Job) -> dict[str, Any]:
    """What a manifest says of its training: the identity, and for people how the work was shared out."""
    return {"stage": job.stage, **asdict(Shape.of(job.train)), "precision": job.train.precision, IDENTITY: identity_of(job)}


def _initial(job: Job) -> Path:
    assert job.initial is not None
    return job.initial


def _weights_digest(folder: Path) -> str:
    """Of the machine's store of weights the folder's name, under which their bytes were checked."""
    return folder.name if _DIGEST.fullmatch(folder.name) else describe_weights(folder).model_digest


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest_of(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
