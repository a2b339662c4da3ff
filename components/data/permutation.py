"""A keyed permutation of any number of things, evaluated only where it is asked for.

A Feistel network over a grid of about that many cells, sides `a` and `b`: by turns, a keyed hash of one coordinate is added to the other,
modulo its side. Every round can be undone, so the whole is a permutation of the cells; what falls on the few cells too many is sent
through again until it does not (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, sections 4 and 5).
"""

from __future__ import annotations

import math

import numpy as np

from components.data.keyed import Key, generator

ROUNDS = 8
_HALF = np.uint64(32)
_ODD_1, _ODD_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


class Permutation:
    """A permutation of 0..size-1 that belongs to a key. Constant memory; the cost of a call is that of the positions asked for."""

    def __init__(self, size: int, *key: Key) -> None:
        """`size` below 2**62."""
        self.size = size
        self._a = math.isqrt(max(size - 1, 0)) + 1
        self._b = -(-size // self._a)
        self._keys = generator(*key).integers(0, 1 << 64, 2 * ROUNDS, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """What stands at these positions, int64; any shape."""
        found = self._through(positions.astype(np.uint64))
        while len(outside := np.flatnonzero(found.reshape(-1) >= self.size)):
            found.reshape(-1)[outside] = self._through(found.reshape(-1)[outside])
        return found.view(np.int64)

    def _through(self, cells: np.ndarray) -> np.ndarray:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left = cells // b
        right = cells - left * b
        for number in range(0, ROUNDS, 2):
            _add(left, right, a, self._keys[2 * number], self._keys[2 * number + 1])
            _add(right, left, b, self._keys[2 * number + 2], self._keys[2 * number + 3])
        left *= b
        left += right
        return left


def scramble(values: np.ndarray, key: np.uint64 | np.ndarray) -> np.ndarray:
    """Well mixed 32-bit numbers, as uint64, of uint64 values under a key."""
    mixed = values * _ODD_1 + key
    mixed ^= mixed >> _HALF
    mixed *= _ODD_2
    mixed ^= mixed >> _HALF
    mixed *= _ODD_2
    mixed >>= _HALF
    return mixed


def _add(target: np.ndarray, other: np.ndarray, side: np.uint64, key: np.uint64, odd: np.uint64) -> None:
    """Add a keyed hash of `other`, brought to 0..side-1, to `target`, modulo its side."""
    summand = scramble(other ^ odd, key)
    summand *= side
    summand >>= _HALF
    target += summand
    target -= side * (target >= side)
