"""Random numbers that belong to a named thing, not to a worker: the same key gives the same draws anywhere."""

from __future__ import annotations

import hashlib

import numpy as np

Key = str | int


def digest(*key: Key) -> int:
    """128-bit integer of a key; parts are length-prefixed, so ("a", "b") and ("ab",) differ."""
    text = "".join(f"{len(part)}:{part}" for part in map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(*key: Key) -> np.random.Generator:
    """A counter-based generator (Philox 4x64) keyed by the whole key."""
    return np.random.Generator(np.random.Philox(key=digest(*key)))
