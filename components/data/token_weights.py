"""How much the loss of each token counts (illume_x.md 3.5: BAGEL's square reweighting; our reading of `adaptive for free length`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.objective_params import ObjectiveParams


def token_weights(ids: np.ndarray, trained: np.ndarray, control: Sequence[int], params: ObjectiveParams) -> np.ndarray | None:
    """float32 like ids [rows, columns], or None where every token counts 1. `control`: ids of the tokens that are no text.

    With `square_root` a text of n trained tokens counts for the root of n: a text is a run of trained tokens that are no control tokens.
    """
    if params.token_weights == "even" and params.control_weight == 1:
        return None
    is_control = np.isin(ids, control)
    weights = np.where(is_control, params.control_weight, 1.0).astype(np.float32)
    if params.token_weights == "even":
        return weights
    inside = np.zeros((len(ids), ids.shape[1] + 2), np.int8)
    inside[:, 1:-1] = trained & ~is_control
    turns = np.diff(inside, axis=1).reshape(-1)
    begins, ends = np.flatnonzero(turns == 1), np.flatnonzero(turns == -1)
    lengths = np.repeat(ends - begins, ends - begins)
    rows, columns = np.nonzero(inside[:, 1:-1])
    weights[rows, columns] = 1 / np.sqrt(lengths.astype(np.float32))
    return weights
