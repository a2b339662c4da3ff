"""Pairs of 64-bit hashes that differ in few bits, without comparing all with all.

Divide the 64 bits into `distance` + t bands: two hashes within `distance` agree in t whole bands at least, so sorting by each choice of
t bands brings every such pair into one bucket (Manku, Jain, Das Sarma: Detecting near-duplicates for web crawling, WWW 2007).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb

import numpy as np

from components.data.documents import CorpusError

MAX_PAIRS = 50_000_000
"""Pairs that are held, 8 bytes each."""
_BITS = 64
_SORT_COST = 3.0
"""What it costs to bring a hash into its bucket, in comparisons of a pair (measured)."""
_Bands = list[tuple[int, int]]


def pairs_among(hashes: np.ndarray, distance: int, limit: int = MAX_PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """Places (i, j), i < j, of the pairs that differ in at most `distance` bits, in ascending order.

    `hashes`: uint64 [n], distinct and ascending. Raises CorpusError where there are more than `limit` pairs: what is nearly all alike
    would fill the memory, and its likeness says nothing.
    """
    pairs = np.zeros(0, np.uint64)
    for bands, agreeing in _arrangements(distance, len(hashes)):
        arranged = np.sort(_arrange(hashes, bands))
        width = sum(end - start for start, end in bands[:agreeing])
        found, count = [pairs], 0
        for one, two in _near(arranged, np.uint64(_BITS - width), distance):
            places = np.sort([np.searchsorted(hashes, _restore(side, bands)) for side in (one, two)], axis=0).astype(np.uint64)
            found.append(places[0] << np.uint64(32) | places[1])
            count += len(one)
            if count > limit:
                raise CorpusError(
                    f"of {len(hashes)} pictures more than {limit} pairs are near each other: lower the bits up to which they are"
                )
        pairs = np.unique(np.concatenate(found))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def pairs_between(hashes: np.ndarray, others: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Places (i in `hashes`, j in `others`) of the pairs that differ in at most `distance` bits, in ascending order.

    Both uint64 [n], distinct and ascending.
    """
    union = np.union1d(hashes, others)
    one, two = pairs_among(union, distance)
    same = np.arange(len(union))
    left, right = union[np.concatenate([one, two, same])], union[np.concatenate([two, one, same])]
    wanted = np.isin(left, hashes) & np.isin(right, others)
    left, right = np.searchsorted(hashes, left[wanted]), np.searchsorted(others, right[wanted])
    order = np.lexsort((right, left))
    return left[order], right[order]


def _arrangements(distance: int, count: int) -> Iterator[tuple[_Bands, int]]:
    """All choices of t bands, put before the others, for the t that costs least where hashes are spread evenly."""

    def cost(agreeing: int) -> float:
        bucket = count / 2 / 2 ** (_BITS * agreeing / (distance + agreeing))
        return comb(distance + agreeing, agreeing) * (_SORT_COST + bucket)

    agreeing = min(range(1, 5), key=cost)
    edges = np.linspace(0, _BITS, distance + agreeing + 1).round().astype(int).tolist()
    bands = list(pairwise(edges))
    for chosen in combinations(bands, agreeing):
        yield [*chosen, *(band for band in bands if band not in chosen)], agreeing


def _arrange(hashes: np.ndarray, bands: _Bands) -> np.ndarray:
    """The same bits in another order: the first band becomes the highest bits. Distances stay."""
    arranged = np.zeros_like(hashes)
    for start, end in bands:
        arranged = arranged << np.uint64(end - start) | hashes >> np.uint64(start) & np.uint64((1 << end - start) - 1)
    return arranged


def _restore(arranged: np.ndarray, bands: _Bands) -> np.ndarray:
    """What was given to `_arrange`."""
    hashes = np.zeros_like(arranged)
    for start, end in reversed(bands):
        hashes |= (arranged & np.uint64((1 << end - start) - 1)) << np.uint64(start)
        arranged = arranged >> np.uint64(end - start)
    return hashes


def _near(arranged: np.ndarray, shift: np.uint64, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs within `distance` that agree above bit `shift`, of ascending hashes: each with its next, its next but one, and so on."""
    buckets = arranged >> shift if shift < _BITS else np.zeros_like(arranged)
    places = np.flatnonzero(buckets[1:] == buckets[:-1])
    step = 1
    while len(places):
        one, two = arranged[places], arranged[places + step]
        near = np.bitwise_count(one ^ two) <= distance
        if near.any():
            yield one[near], two[near]
        step += 1
        places = places[places + step < len(arranged)]
        places = places[buckets[places + step] == buckets[places]]
