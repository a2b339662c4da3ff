"""Texts as sets of hashes of n consecutive words, so that what two texts share is found without keeping the texts."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# A character of a script without spaces is a word of its own.
_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BY_LENGTH = 0xBF58476D1CE4E5B9


def words(text: str) -> list[str]:
    """The words of a text without case, signs and width: `"A cat, sitting!"` and `"a CAT sitting"` are the same."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def grams(texts: Sequence[str], size: int, shortest: int) -> np.ndarray:
    """Sorted uint64 hashes of all `size` consecutive words of each text; of a shorter text as a whole, unless below `shortest` words."""
    found = [_hashes(words(text), size, shortest) for text in texts]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def text_digest(texts: Sequence[str]) -> int:
    """64 bits of the words of all texts in order."""
    joined = " ".join(word for text in texts for word in words(text))
    return int.from_bytes(hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _hashes(own: list[str], size: int, shortest: int) -> np.ndarray:
    if len(own) < shortest:
        return np.zeros(0, np.uint64)
    span = min(size, len(own))
    hashed = np.array([_word(word) for word in own], np.uint64)
    count = len(own) - span + 1
    rolled = np.full(count, span * _BY_LENGTH % 2**64 if span < size else 0, np.uint64)
    for place in range(span):  # a polynomial in the words, modulo 2^64
        rolled = rolled * _BASE + hashed[place : place + count]
    return rolled


@lru_cache(maxsize=1 << 16)
def _word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
