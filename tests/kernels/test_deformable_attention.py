"""The fast path against the grid_sample oracle: outputs, every gradient, odd shapes, reproducibility."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.deformable_attention import deformable_attention
from kernels.testing import assert_close

LEVELS = ((5, 3), (2, 7), (1, 1))


def make(
    queries: int = 17,
    heads: int = 3,
    channels: int = 5,
    points: int = 4,
    *,
    shared: bool,
    dtype: torch.dtype = torch.float64,
    images: int = 4,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries)
    cells = sum(h * w for h, w in LEVELS)
    levels = () if shared else (len(LEVELS),)
    value = torch.randn(images, cells, heads, channels, generator=generator, dtype=dtype)
    location = torch.rand(queries, heads, *levels, points, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    weight = torch.rand(queries, heads, len(LEVELS), points, generator=generator, dtype=dtype)
    return [value, location, weight, torch.randint(0, images, (queries,), generator=generator)]


def gradients(path: str, value: Tensor, location: Tensor, weight: Tensor, image: Tensor) -> list[Tensor]:
    inputs = [tensor.clone().requires_grad_() for tensor in (value, location, weight)]
    output = deformable_attention(inputs[0], LEVELS, inputs[1], inputs[2], image, path=path)
    seed = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output.detach(), *torch.autograd.grad(output, inputs, seed)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("queries", [1, 17])
def test_paths_agree_in_output_and_all_gradients(queries: int, shared: bool, dtype: torch.dtype) -> None:
    arguments = make(queries, shared=shared, dtype=dtype)
    for name, actual, expected in zip(
        ("output", "value", "location", "weight"), gradients("torch", *arguments), gradients("naive", *arguments), strict=True
    ):
        assert_close(actual, expected, "op", name)


def test_gradcheck_with_points_outside() -> None:
    value, location, weight, image = make(3, 2, 2, 2, shared=True)
    inputs = [tensor.requires_grad_() for tensor in (value, location, weight)]
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, LEVELS, x, w, image), inputs)


def test_far_locations_are_worth_nothing() -> None:
    value, location, weight, image = make(shared=True, dtype=torch.float32)
    location[::2] = torch.tensor([1e20, -1e20])
    output = deformable_attention(value, LEVELS, location, weight, image)
    assert output[::2].abs().max() == 0
    assert output[1::2].abs().max() > 0


def test_images_nobody_looks_at_are_not_read() -> None:
    value, location, weight, image = make(shared=True)
    image.fill_(1)
    poisoned = torch.full_like(value, float("nan"))
    poisoned[1] = value[1]
    actual = gradients("torch", poisoned, location.clamp(0.3, 0.7), weight, image)
    expected = gradients("naive", value, location.clamp(0.3, 0.7), weight, image)
    assert_close(actual[0], expected[0], "op")
    assert_close(actual[1], expected[1], "op")


def test_no_queries() -> None:
    value, location, weight, image = make(shared=True)
    value.requires_grad_()
    output = deformable_attention(value, LEVELS, location[:0], weight[:0], image[:0])
    assert output.shape == (0, 3, 5)
    output.sum().backward()
    assert value.grad is not None and value.grad.abs().max() == 0


def test_backward_is_bit_reproducible_over_threads() -> None:
    arguments = make(600, shared=True, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = gradients("torch", *arguments)
        torch.set_num_threads(2)
        second = gradients("torch", *arguments)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": torch.zeros(4, 29, 3, 5)}, "value: 29 cells"),
        ({"weight": torch.zeros(17, 3, 2, 4)}, "weight: 3 heads and 2 levels"),
        ({"location": torch.zeros(17, 3, 5, 2)}, "location"),
        ({"image": torch.zeros(17)}, "image"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    arguments = dict(zip(("value", "location", "weight", "image"), make(shared=True), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        deformable_attention(level_shapes=LEVELS, **arguments)
