"""The random state of one rank, kept beside its shards of a checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch


def save_random_state(path: Path) -> None:
    """Write the state of every generator this process may draw from."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    torch.save(
        {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        },
        path,
    )


def load_random_state(path: Path) -> None:
    """Put the generators where they were; the file is read without unpickling objects. A rank that was not there keeps its own."""
    if not path.exists():  # fewer ranks wrote the checkpoint
        return
    state = torch.load(path, weights_only=True)
    name, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
