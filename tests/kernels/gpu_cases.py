"""The GPU's kernels against the grid_sample oracle; test_gpu.py runs this file in a process of its own.

With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on the processor and at tiny sizes; without it, on the GPU. Triton reads
that variable when it is imported, which other libraries do too: hence the process. The kernels are launched below the operator, which
would refuse the processor's tensors.
"""

from __future__ import annotations

import os
from itertools import chain
from typing import Any

import pytest
import torch
from sampling_cases import LEVELS, NAMES, Shapes
from sampling_cases import gradients as gradients_of
from sampling_cases import make as make_shaped
from torch import Tensor

from kernels.deformable_attention.gpu import backward, forward, rows
from kernels.testing import assert_close, relative_error

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
# The interpreter takes some 10 ms per program, and every row has one.
TINY: Shapes = ((3, 2), (1, 1))


def make(*sizes: int, shapes: Shapes = TINY, **how: Any) -> list[Tensor]:
    return make_shaped(*sizes, shapes=shapes, **how)


def flat(shapes: Shapes) -> list[int]:
    return list(chain.from_iterable(shapes))


def naive(*arguments: Tensor, shapes: Shapes = TINY) -> list[Tensor]:
    """Output and gradients of the oracle in float64, in the processor's memory."""
    return gradients_of("naive", *(each.double() if each.is_floating_point() else each for each in arguments), shapes=shapes)


def seed_of(output: Tensor) -> Tensor:
    """The gradient that the oracle of sampling_cases is given."""
    return torch.randint(-4, 5, output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)


def ours(value: Tensor, location: Tensor, weight: Tensor, image: Tensor, shapes: Shapes = TINY) -> list[Tensor]:
    """Output and gradients, on the processor and in the shapes of the inputs. Memory that a kernel forgets is not zero."""
    shape = location.shape
    location = location.unsqueeze(2) if location.dim() == 4 else location
    inputs = [each.to(DEVICE) for each in (value, location, weight, image)]
    output = forward.sample(inputs[0], flat(shapes), *inputs[1:])
    found = backward.gradients(seed_of(output).to(DEVICE), inputs[0], flat(shapes), *inputs[1:], wanted=[True] * 3)
    return [output.cpu(), found[0].cpu(), found[1].view(shape).cpu(), found[2].cpu()]


@pytest.fixture(autouse=True)
def _poisoned_memory() -> None:
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize(
    ("sizes", "images", "shared", "dtype", "shapes"),
    [
        ((1, 1, 1, 1), 1, True, torch.float64, TINY),
        ((9, 2, 5, 3), 2, True, torch.float64, TINY),
        ((7, 1, 37, 2), 2, False, torch.float32, TINY),
        ((66, 1, 64, 1), 1, True, torch.float32, LEVELS),
        ((3, 1, 256, 2), 1, False, torch.float64, TINY),
    ],
)
def test_output_and_all_gradients(sizes: tuple[int, ...], images: int, shared: bool, dtype: torch.dtype, shapes: Shapes) -> None:
    """Queries, heads, channels, points: odd ones, one block and two."""
    arguments = make(*sizes, images=images, shared=shared, dtype=dtype, shapes=shapes)
    for name, actual, expected in zip(NAMES, ours(*arguments, shapes=shapes), naive(*arguments, shapes=shapes), strict=True):
        assert actual.dtype == dtype
        assert relative_error(actual, expected) <= (1e-13 if dtype == torch.float64 else 5e-6), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types_are_summed_in_long_ones(dtype: torch.dtype) -> None:
    value, location, weight, image = make(60, 1, 8, 4, shared=True, dtype=torch.float32, images=1)
    # Long locations and weights beside short values in the one case, all short in the other.
    kept = torch.float32 if dtype == torch.bfloat16 else dtype
    arguments = [value.to(dtype), location.to(kept), weight.to(kept), image]
    for name, actual, expected in zip(NAMES, ours(*arguments), naive(*arguments), strict=True):
        assert actual.dtype == (dtype if name in ("output", "value") else kept)
        assert_close(actual, expected.to(actual.dtype), "op", name)


def test_what_everybody_looks_at_is_added_in_chunks() -> None:
    value, location, weight, image = make(270, 1, 3, 2, shared=True, dtype=torch.float32, images=1)
    location[:] = torch.tensor([0.45, 0.55])
    arguments = [value, location, weight, image]
    assert weight.numel() // len(TINY) >= 2 * rows.CHUNK
    found, exact = ours(*arguments), naive(*arguments)
    for name, actual, expected in zip(NAMES, found, exact, strict=True):
        assert relative_error(actual, expected) <= 5e-6, name
    gradient = seed_of(exact[0]).float()
    inputs = [each.to(DEVICE) for each in (gradient, value)], [each.to(DEVICE) for each in (location.unsqueeze(2), weight, image)]
    assert torch.equal(rows.value_gradient(*inputs[0], flat(TINY), *inputs[1]).cpu(), found[1])


def test_queries_by_turns() -> None:
    value, location, weight, image = make(9, 1, 5, 2, shared=False, images=2)
    output, expected, *_ = naive(value, location, weight, image)
    inputs = [each.to(DEVICE) for each in (seed_of(output).half(), value.half(), location, weight, image)]
    found = rows.value_gradient(*inputs[:2], flat(TINY), *inputs[2:], piece=4 * weight[0].numel())
    assert_close(found.cpu(), expected.half(), "op")


def test_the_way_of_the_visit_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    value, location, weight, image = (each.to(DEVICE) for each in make(40, 1, 100, 1, shared=False, dtype=torch.float32, images=3))

    def found() -> list[Tensor]:
        output = forward.sample(value, flat(TINY), location, weight, image)
        gradient = seed_of(output).to(DEVICE)
        return [output, *backward.gradients(gradient, value, flat(TINY), location, weight, image, wanted=[False, True, True])]

    plain = found()
    monkeypatch.setattr(forward, "WORTH_SORTING", 0)
    assert forward.visit(value, weight, image).by_image
    by_image = found()
    # Offsets of 64 bits, without the memory that would need them.
    far = forward.visit(value, weight, image)._replace(long=True)
    for module in (forward, backward):
        monkeypatch.setattr(module, "visit", lambda *arguments: far)
    for expected, *others in zip(plain, by_image, found(), strict=True):
        assert all(torch.equal(actual, expected) for actual in others)


def test_far_locations_are_worth_nothing() -> None:
    value, location, weight, image = make(8, 1, 3, 2, shared=True, dtype=torch.float32, images=1)
    location[::4] = torch.tensor([float("inf"), 0.5])
    location[2::4] = torch.tensor([1e20, -1e20])
    found = ours(value, location, weight, image)
    assert found[0][::2].abs().max() == 0
    location[::2] = 7.0
    for name, actual, expected in zip(NAMES, found, naive(value, location, weight, image), strict=True):
        assert_close(actual, expected, "op", name)


def test_what_is_not_a_number_stays_with_its_query() -> None:
    """In the queries 0 to 3, which look at the images 0 to 3."""
    value, location, weight, image = make(9, 1, 3, 2, shared=True, images=5)
    image[:4], image[4:] = torch.arange(4), 4
    nan = float("nan")
    location[0, 0, 0, 0] = nan
    location[1, 0, 0, 1] = nan
    weight[2:4, 0, 0, 0] = nan
    location[2, 0, 0], location[3, 0, 0] = 0.4, 5.0
    output, to_value, *_ = ours(value, location, weight, image)
    clean = naive(value[4:], location[4:], weight[4:], image[4:] - 4)
    assert output[:4].isnan().all()
    assert_close(output[4:], clean[0], "op", "output")
    assert to_value[:4].isnan().flatten(1).any(1).all(), "a lost number would be silent"
    assert torch.isfinite(to_value[4]).all()


def test_an_infinite_weight_is_not_hidden() -> None:
    value, location, weight, image = (each.to(DEVICE) for each in make(4, 2, 3, 2, shared=False, images=2))
    weight[2] = float("inf")
    output = forward.sample(value, flat(TINY), location, weight, image)
    assert not torch.isfinite(output[2]).any()
    assert torch.isfinite(output[:2]).all() and torch.isfinite(output[3:]).all()


def test_images_that_nobody_looks_at_or_that_do_not_exist_are_not_read() -> None:
    """On the device nobody can ask for the latter without stopping it: their queries are no numbers, and touch nothing."""
    value, location, weight, image = make(8, 1, 3, 2, shared=True, images=2)
    image.fill_(1)
    expected = naive(value, location[2:], weight[2:], image[2:])
    value[0] = float("nan")
    image[0], image[1] = 10**6, -1
    found = ours(value, location, weight, image)
    assert found[0][:2].isnan().all() and not found[1][0].any()
    assert_close(found[0][2:], expected[0], "op", "output")


@pytest.mark.parametrize("images", [0, 2])
def test_no_queries(images: int) -> None:
    value, location, weight, image = make(4, 2, 3, 2, shared=True, images=2)
    output, to_value, to_location, to_weight = ours(value[:images], location[:0], weight[:0], image[:0])
    assert output.shape == (0, 2, 3) and to_location.shape == (0, 2, 2, 2) and to_weight.shape == (0, 2, 2, 2)
    assert to_value.shape == value[:images].shape and not to_value.any()


def test_strides_do_not_matter() -> None:
    value, location, weight, image = make(5, 2, 3, 2, shared=True, images=2)
    location = location[:1].expand_as(location)
    exact = naive(value, location.contiguous(), weight, image)
    wider = torch.stack((value, -value), dim=3)[:, :, :, 0]
    weight, image = weight.transpose(0, 1).contiguous().transpose(0, 1), image.int()
    assert not wider.is_contiguous()
    for name, actual, expected in zip(NAMES, ours(wider, location, weight, image), exact, strict=True):
        assert_close(actual, expected, "op", name)
    across = value.transpose(0, 3).contiguous().transpose(0, 3).to(DEVICE)
    output = forward.sample(across, flat(TINY), *(each.to(DEVICE) for each in (location.unsqueeze(2), weight, image)))
    assert_close(output.cpu(), exact[0], "op", "output")


def test_one_gradient_alone() -> None:
    value, location, weight, image = make(4, 1, 3, 2, shared=False, images=1)
    expected = ours(value, location, weight, image)
    inputs = [each.to(DEVICE) for each in (value, location, weight, image)]
    for place in range(3):
        wanted = [number == place for number in range(3)]
        found = backward.gradients(seed_of(expected[0]).to(DEVICE), inputs[0], flat(TINY), *inputs[1:], wanted=wanted)
        for number, (actual, other) in enumerate(zip(found, expected[1:], strict=True)):
            assert torch.equal(actual.cpu(), other) if number == place else actual.numel() == 0
