"""How coherently the pictures of a document follow each other (CoMM, arXiv 2406.10462)."""

from __future__ import annotations

import numpy as np

from components.data.documents import Document


def similarities(document: Document) -> np.ndarray | None:
    """float [images, images] of fields.image_similarity, CLIP similarity of each picture to each; None where it is no such matrix."""
    try:
        matrix = np.asarray(document.fields.get("image_similarity"), np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    count = len(document.images)
    return matrix if matrix.shape == (count, count) and np.isfinite(matrix).all() else None


def sequence_score(matrix: np.ndarray) -> float:
    """Mean similarity of neighbours less that of all pairs: above 0 where near pictures are more alike than distant ones.

    `matrix`: float [n, n], n at least 2. With two pictures it is 0.
    """
    upper = np.triu_indices(len(matrix), 1)
    return float(np.diagonal(matrix, 1).mean() - matrix[upper].mean())
