"""The operator as torch.library, torch.compile and torch.export see it. Without a compiler: the fallback, or a named error."""

from __future__ import annotations

import pytest
import torch
from sampling_cases import LEVELS, NAMES, gradients, make
from torch import Tensor, nn

from kernels.deformable_attention import deformable_attention
from kernels.deformable_attention.cpu import library
from kernels.testing import assert_close

SHAPES = [size for shape in LEVELS for size in shape]


class Sampler(nn.Module):
    def forward(self, value: Tensor, location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
        return deformable_attention(value, LEVELS, location, weight, image, path="cpp")


@pytest.mark.parametrize("shared", [True, False])
def test_registration(shared: bool) -> None:
    value, location, weight, image = make(3, 2, 3, 2, shared=shared, images=2)
    location = location.unsqueeze(2) if shared else location
    arguments = [value, SHAPES, location, weight, image]
    if not library.available(True):
        with pytest.raises(RuntimeError, match="cannot run here"):
            torch.ops.mmfs.deformable_attention(*arguments)
        return
    for place in (0, 2, 3):
        arguments[place].requires_grad_()
    torch.library.opcheck(torch.ops.mmfs.deformable_attention.default, tuple(arguments))


def test_compiled_in_one_graph() -> None:
    arguments = make(shared=True, dtype=torch.float32)
    compiled = torch.compile(Sampler(), fullgraph=True, backend="aot_eager")
    inputs = [tensor.clone().requires_grad_() for tensor in arguments[:3]]
    output = compiled(*inputs, arguments[3])
    seed = torch.randint(-4, 5, output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    found = [output.detach(), *torch.autograd.grad(output, inputs, seed)]
    for name, ours, expected in zip(NAMES, found, gradients("naive", *arguments), strict=True):
        assert_close(ours, expected, "op", name)


def test_exported() -> None:
    """The operator for any number of queries; pure PyTorch for the number that it was exported with."""
    built = library.available(True)
    queries = torch.export.Dim("queries", min=2)
    arguments = make(shared=True, dtype=torch.float32)
    dynamic = (None, {0: queries}, {0: queries}, {0: queries}) if built else None
    program = torch.export.export(Sampler(), tuple(arguments), dynamic_shapes=dynamic)
    assert built == ("mmfs.deformable_attention.default" in [str(node.target) for node in program.graph.nodes])
    others = make(40 if built else 17, shared=True, dtype=torch.float32)
    assert_close(program.module()(*others), deformable_attention(others[0], LEVELS, *others[1:], path="naive"), "op")
