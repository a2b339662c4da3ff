"""The linear parts of MMFS: what they cost decides their form, and calls that follow one another with the same weights share it.

Everything between a query and its offsets and logits is linear, so the two layers may be one: `W (D q + E[k]) + b = (W D) q + (W E[k] + b)`
with the distance table E. That is exact, and W D is small: as many rows as there are offsets and logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Linears = Literal["own", "bfloat16"]


@dataclass(frozen=True)
class Linear:
    """A linear layer as a value: weight [outputs, inputs], bias [outputs]. A narrow one rounds what it takes and gives its input's type."""

    weight: Tensor
    bias: Tensor | None
    narrow: bool = False

    def __call__(self, rows: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        if not self.narrow:
            return F.linear(rows, self.weight, self.bias)
        return F.linear(rows.to(self.weight.dtype), self.weight, self.bias).to(rows.dtype)


def linear(weight: Tensor, bias: Tensor | None, precision: Linears) -> Linear:
    """The layer in this precision: its weights' own, or bfloat16 with sums of 32 bits."""
    if precision == "own":
        return Linear(weight, bias)
    return Linear(weight.to(torch.bfloat16), None if bias is None else bias.to(torch.bfloat16), narrow=True)


@dataclass(frozen=True)
class Prepared:
    """What an MMFS computes of its weights alone, made by `MMFS.prepare`.

    A value and no cache: it stays what the weights were when it was made, as the projected images beside it do, and lives in the state of a
    session or of one drawing. of_query: layers that one after the other take a query [N, query_width] to its offsets and logits [N, slots];
    of_image [table rows, slots]: what the number of an image adds to them.
    """

    of_query: tuple[Linear, ...]
    of_image: Tensor
    output: Linear

    def slots(self, query: Tensor) -> Tensor:
        """Offsets and logits of each query, without the part of the image: [N, slots]."""
        for layer in self.of_query:
            query = layer(query)
        return query


def prepare(first: Linear, second: Linear, table: Tensor, output: Linear, precision: Linears, *, fold: bool) -> Prepared:
    """`first` and `second` between query and slots, as one layer with `fold`; `table` [rows, query_width] is added between them."""
    rows = table if first.bias is None else table + first.bias
    of_image = F.linear(rows, second.weight, second.bias)
    layers = (Linear(second.weight @ first.weight, None),) if fold else (Linear(first.weight, None), Linear(second.weight, None))
    narrowed = tuple(linear(layer.weight, layer.bias, precision) for layer in layers)
    return Prepared(narrowed, of_image, linear(output.weight, output.bias, precision))
