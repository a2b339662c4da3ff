"""The fast paths against the grid_sample oracle: outputs, every gradient, odd shapes and inputs, reproducibility.

Where there is no C++ compiler, `cpp` is the fallback, and must be as right.
"""

from __future__ import annotations

import pytest
import torch
from sampling_cases import FAST, LEVELS, NAMES, gradients, make
from torch import Tensor

from kernels.deformable_attention import Path, deformable_attention
from kernels.deformable_attention.torch_path import index_type
from kernels.testing import assert_close, relative_error

pytestmark = pytest.mark.parametrize("path", FAST)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("queries", "channels"), [(1, 5), (17, 5), (90, 37), (90, 64)])
def test_output_and_all_gradients(path: Path, queries: int, channels: int, shared: bool, dtype: torch.dtype, limit: float) -> None:
    arguments = make(queries, channels=channels, shared=shared, dtype=dtype)
    exact = gradients("naive", *(each.double() if each.is_floating_point() else each for each in arguments))
    for name, actual, expected in zip(NAMES, gradients(path, *arguments), exact, strict=True):
        assert relative_error(actual, expected) <= limit, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_types_are_summed_in_long_ones(path: Path, dtype: torch.dtype) -> None:
    value, location, weight, image = make(400, shared=True, dtype=torch.float32, images=1)
    arguments = [value.to(dtype), location.float(), weight.float(), image]
    exact = gradients("naive", arguments[0].double(), location.double(), weight.double(), image)
    for name, actual, expected in zip(NAMES, gradients(path, *arguments), exact, strict=True):
        assert actual.dtype == (dtype if name in ("output", "value") else torch.float32)
        assert_close(actual, expected.to(dtype), "op", name)


def test_types_may_differ(path: Path) -> None:
    value, location, weight, image = make(shared=True, dtype=torch.float64)
    for change in ({"value": value.float()}, {"weight": weight.float()}, {"location": location.float()}, {"image": image.int()}):
        mixed = {"value": value, "location": location, "weight": weight, "image": image} | change
        wide = [each.double() if each.is_floating_point() else each for each in mixed.values()]
        for name, ours, expected in zip(NAMES, gradients(path, *mixed.values()), gradients("naive", *wide), strict=True):
            assert relative_error(ours, expected) <= (1e-13 if "image" in change else 5e-6), name


@pytest.mark.parametrize("channels", [1, 7, 100, 256])
def test_any_width_of_a_head(path: Path, channels: int) -> None:
    arguments = make(9, 2, channels, shared=False)
    for name, actual, expected in zip(NAMES, gradients(path, *arguments), gradients("naive", *arguments), strict=True):
        assert_close(actual, expected, "op", name)


@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck_with_points_outside(path: Path, shared: bool) -> None:
    value, location, weight, image = make(3, 2, 2, 2, shared=shared)
    inputs = [tensor.requires_grad_() for tensor in (value, location, weight)]
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, LEVELS, x, w, image, path=path), inputs)


def test_one_gradient_alone(path: Path) -> None:
    arguments = make(shared=True)
    expected = gradients(path, *arguments)[1:]
    for place in range(3):
        inputs = [tensor.clone().requires_grad_(number == place) for number, tensor in enumerate(arguments[:3])]
        output = deformable_attention(inputs[0], LEVELS, inputs[1], inputs[2], arguments[3], path=path)
        seed = torch.randint(-4, 5, output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
        assert_close(torch.autograd.grad(output, inputs[place], seed)[0], expected[place], "op", NAMES[place + 1])


@pytest.mark.parametrize("far", [1e20, float("inf")])
def test_far_locations_are_worth_nothing(path: Path, far: float) -> None:
    value, location, weight, image = make(shared=True, dtype=torch.float32)
    location[::2] = torch.tensor([far, -far])
    output, *found = gradients(path, value, location, weight, image)
    assert output[::2].abs().max() == 0
    assert output[1::2].abs().max() > 0
    assert all(torch.isfinite(each).all() for each in found)


@pytest.mark.parametrize("spoiled", ["location", "weight"])
def test_what_is_not_a_number_stays_with_its_query(path: Path, spoiled: str) -> None:
    value, location, weight, image = make(shared=True)
    clean = deformable_attention(value, LEVELS, location, weight, image, path=path)
    (location if spoiled == "location" else weight)[4, 1] = float("nan")
    output = deformable_attention(value, LEVELS, location, weight, image, path=path)
    assert output[4, 1].isnan().all()
    output[4, 1] = clean[4, 1]
    assert torch.equal(output, clean)


def test_an_infinite_weight_is_not_hidden(path: Path) -> None:
    value, location, weight, image = make(shared=True)
    weight[2] = float("inf")
    output = deformable_attention(value, LEVELS, location, weight, image, path=path)
    assert not torch.isfinite(output[2]).any()
    assert torch.isfinite(output[:2]).all() and torch.isfinite(output[3:]).all()


def test_images_nobody_looks_at_are_not_read(path: Path) -> None:
    value, location, weight, image = make(shared=True)
    image.fill_(1)
    poisoned = torch.full_like(value, float("nan"))
    poisoned[1] = value[1]
    actual = gradients(path, poisoned, location.clamp(0.3, 0.7), weight, image)
    expected = gradients("naive", value, location.clamp(0.3, 0.7), weight, image)
    assert_close(actual[0], expected[0], "op")
    assert_close(actual[1], expected[1], "op")


@pytest.mark.parametrize("images", [0, 4])
def test_no_queries(path: Path, images: int) -> None:
    value, location, weight, image = make(shared=True)
    value = value[:images].clone().requires_grad_()
    output = deformable_attention(value, LEVELS, location[:0], weight[:0], image[:0], path=path)
    assert output.shape == (0, 3, 5)
    output.sum().backward()
    assert value.grad is not None and value.grad.count_nonzero() == 0


def test_strides_do_not_matter(path: Path) -> None:
    value, location, weight, image = make(shared=True)
    expanded = [value[:1].expand_as(value), location[:1].expand_as(location), weight.transpose(0, 1).contiguous().transpose(0, 1), image]
    for name, ours, expected in zip(
        NAMES, gradients(path, *expanded), gradients("naive", *(each.contiguous() for each in expanded)), strict=True
    ):
        assert_close(ours, expected, "op", name)


def test_rows_beyond_31_bits(path: Path) -> None:
    """An image that begins after 2^31 numbers; the memory before it is asked for, never touched."""
    images = 2**31 // 30 + 2
    value = torch.empty(images, 30, 1, 1, dtype=torch.float16)
    value[-1] = torch.arange(30.0)[:, None, None]
    location, weight = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[0.0], [1.0], [0.0]]]])
    output = deformable_attention(value, LEVELS, location, weight, torch.tensor([images - 1]), path=path)
    expected = deformable_attention(value[-1:].float(), LEVELS, location, weight, torch.tensor([0]), path="naive")
    assert value.numel() > 2**31 and output.item() == expected.item() > 0
    assert (index_type(2**31 - 1, 0), index_type(2**31, 0), index_type(1, 2**31)) == (torch.int32, torch.int64, torch.int64)


def test_backward_is_bit_reproducible_over_runs_and_threads(path: Path) -> None:
    arguments = make(600, shared=True, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append(gradients(path, *arguments))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": torch.zeros(4, 29, 3, 5)}, "value: 29 cells"),
        ({"value": torch.zeros(4, 30, 3, 5, dtype=torch.int64)}, "value: expected floating point"),
        ({"value": torch.zeros(4, 30, 3, 5, device="meta")}, "value is on meta"),
        ({"value": torch.zeros(0, 30, 3, 5)}, "value: no images"),
        ({"weight": torch.zeros(17, 3, 2, 4)}, "weight: 3 heads and 2 levels"),
        ({"location": torch.zeros(17, 3, 5, 2)}, "location"),
        ({"image": torch.zeros(17)}, "image"),
        ({"image": torch.full((17,), 4)}, r"image: 4\.\.4, but there are 4 images"),
        ({"image": torch.full((17,), -1)}, "image: -1"),
        ({"level_shapes": ((5, 3), (2, 7), (-1, -1))}, "level_shapes"),
    ],
)
def test_wrong_arguments_are_named(path: Path, change: dict[str, Tensor], message: str) -> None:
    arguments = dict(zip(("value", "location", "weight", "image"), make(shared=True), strict=True)) | {"level_shapes": LEVELS} | change
    with pytest.raises(ValueError, match=message):
        deformable_attention(**arguments, path=path)
