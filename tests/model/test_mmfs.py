"""MMFS against its formula written out, with images padded and masked as the release does."""

from __future__ import annotations

import json
import math
from pathlib import Path as File

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from kernels.deformable_attention import Path, naive
from kernels.testing import assert_close, relative_error
from model.config import SamplerConfig
from model.mmfs import MMFS
from model.sequence import pairs_from_mask

CONFIG = SamplerConfig(heads=2, points=3, inner=8, levels=(4, 2), table_rows=6, offset_init=2.0, train_sink=True)
WIDTH, VALUE = 12, 10


def literal(module: MMFS, query: Tensor, features: Tensor, mask: Tensor, reference: Tensor) -> Tensor:
    """mm_interleaved.md 1.4, line by line: query copied per image, sink slots, masked logits."""
    config = module.config
    rows, queries, images = mask.shape
    heads, points, levels = config.heads, config.points, len(config.levels)
    distance = mask.long() * (mask.sum(-1, keepdim=True).long() + 1 - mask.long().cumsum(-1))
    g = module.dynamic_offset_mask(query).unsqueeze(2) + module.query_relpos(distance)
    offsets = module.sampling_offsets(g).view(rows, queries, images, heads, points, 2)
    logits = module.attention_weights(g).view(rows, queries, images, heads, levels, points + 1)
    logits = logits - 10000.0 * (1 - mask)[..., None, None, None]
    logits[..., points] = -math.log(images * levels)
    weights = logits.permute(0, 1, 3, 2, 4, 5).flatten(3).softmax(-1).view(rows, queries, heads, images, levels, points + 1)
    values = module.value_proj(features).view(rows, images, -1, heads, config.inner // heads)
    mixed = weights[..., points].sum((3, 4)).unsqueeze(-1) * module.ignore_token.view(heads, -1)
    maps = values.split([side * side for side in config.levels], dim=2)
    for level, side in enumerate(config.levels):
        for image in range(images):
            plane = maps[level][:, image].permute(0, 2, 3, 1).reshape(rows * heads, -1, side, side)
            location = reference + offsets[:, :, image] / module.base_size
            grid = 2 * location.permute(0, 2, 1, 3, 4).flatten(0, 1) - 1
            sampled = F.grid_sample(plane, grid, align_corners=False).view(rows, heads, -1, queries, points)
            mixed = mixed + torch.einsum("bhdqp,bqhp->bqhd", sampled, weights[:, :, :, image, level, :points])
    return module.output_proj(mixed.flatten(2))


def test_equals_the_formula_in_output_and_every_gradient() -> None:
    torch.manual_seed(0)
    module = MMFS(WIDTH, VALUE, CONFIG, base_size=4).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    query = torch.randn(2, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    features = torch.randn(2, 3, 20, VALUE, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]], [[0, 0, 0]] * 2 + [[0, 0, 1]] * 3], dtype=torch.float64)
    leaves = [query, features, *module.parameters()]

    expected = literal(module, query, features, mask, torch.tensor([0.5, 0.5], dtype=torch.float64))
    centre = torch.full((1, 2), 0.5, dtype=torch.float64)
    actual = module(query.flatten(0, 1), module.project(features.flatten(0, 1)), centre, pairs_from_mask(mask)).view_as(query)
    assert_close(actual, expected, "module", "output")
    seed = torch.randn_like(expected)
    names = ["query", "features", *(name for name, _ in module.named_parameters())]
    gradients = torch.autograd.grad(actual, leaves, seed), torch.autograd.grad(expected, leaves, seed)
    for name, ours, theirs in zip(names, *gradients, strict=True):
        assert_close(ours, theirs, "module", name)


def test_a_query_that_sees_nothing_gets_the_sink() -> None:
    torch.manual_seed(0)
    module = MMFS(WIDTH, VALUE, CONFIG, base_size=4)
    torch.nn.init.normal_(module.ignore_token)
    value = module.project(torch.randn(1, 20, VALUE))
    nobody = pairs_from_mask(torch.zeros(1, 3, 1))
    output = module(torch.randn(3, WIDTH), value, torch.full((1, 2), 0.5), nobody)
    assert_close(output, module.output_proj(module.ignore_token.view(1, -1)).expand(3, -1), "module")


def test_very_large_logits_stay_finite() -> None:
    torch.manual_seed(0)
    module = MMFS(WIDTH, VALUE, CONFIG, base_size=4)
    torch.nn.init.normal_(module.attention_weights.weight, std=1e4)
    query = torch.randn(4, WIDTH, requires_grad=True)
    output = module(query, module.project(torch.randn(2, 20, VALUE)), torch.full((1, 2), 0.5), pairs_from_mask(torch.ones(1, 4, 2)))
    output.sum().backward()
    assert query.grad is not None
    assert torch.isfinite(output).all()
    assert torch.isfinite(query.grad).all()


def module_and_inputs(queries: int = 5) -> tuple[MMFS, Tensor, Tensor, Tensor]:
    """A module, queries, values of 3 images and who sees what; in float64."""
    torch.manual_seed(0)
    module = MMFS(WIDTH, VALUE, CONFIG, base_size=4).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    mask = torch.arange(queries)[:, None] % 4 > torch.arange(3)
    value = module.project(torch.randn(3, 20, VALUE, dtype=torch.float64))
    return module, torch.randn(queries, WIDTH, dtype=torch.float64), value, mask[None]


CENTRE = torch.full((1, 2), 0.5, dtype=torch.float64)


@pytest.mark.parametrize("path", ["torch", "cpp"])
def test_between_the_linear_layers_it_is_the_oracle(path: Path) -> None:
    module, query, value, mask = module_and_inputs()
    heads, points, levels = CONFIG.heads, CONFIG.points, len(CONFIG.levels)
    distance = mask.long() * (mask.sum(-1, keepdim=True) + 1 - mask.long().cumsum(-1))
    prepared = module.prepare()
    slots = prepared.slots(query)[None, :, None] + prepared.of_image[distance]
    offsets, logits = slots.split((heads * points * 2, heads * levels * points), dim=-1)
    mixed = naive.mmfs(
        value[None],
        module.level_shapes,
        0.5 + offsets.unflatten(-1, (heads, points, 2)) / module.base_size,
        logits.unflatten(-1, (heads, levels, points)),
        mask,
        module.ignore_token.view(heads, -1),
    )
    module.path = path
    output = module(query, value, CENTRE, pairs_from_mask(mask))
    assert relative_error(output, module.output_proj(mixed[0].flatten(1))) <= 1e-13


@pytest.mark.parametrize(("path", "fold"), [("torch", False), ("cpp", True)])
def test_gradcheck(path: Path, fold: bool) -> None:
    module, query, value, mask = module_and_inputs(3)
    module.path = path
    pairs = pairs_from_mask(mask)
    parameters = [each for name, each in module.named_parameters() if not name.startswith("value_proj")]
    inputs = [query.requires_grad_(), value.detach().requires_grad_(), *parameters]
    # Parameters are inputs too: gradcheck moves each in place.
    assert torch.autograd.gradcheck(lambda query, value, *_: module(query, value, CENTRE, pairs, module.prepare(fold=fold)), inputs)


@pytest.mark.parametrize("path", ["torch", "cpp"])
def test_what_is_not_a_number_stays_where_it_is_seen(path: Path) -> None:
    module, query, value, mask = module_and_inputs()
    module.path, pairs = path, pairs_from_mask(mask)
    clean = module(query, value, CENTRE, pairs)
    sees = mask[0].any(-1)
    spoiled = query.index_fill(0, torch.tensor([3]), torch.nan)
    output = module(spoiled, value, CENTRE, pairs)
    assert output[3].isnan().all()
    assert torch.equal(output[[0, 1, 2, 4]], clean[[0, 1, 2, 4]])
    # Image 2 is seen by query 3 alone.
    output = module(query, value.index_fill(0, torch.tensor([2]), torch.inf), CENTRE, pairs)
    assert not torch.isfinite(output[3]).all()
    assert torch.equal(output[[0, 1, 2, 4]], clean[[0, 1, 2, 4]])
    far = module(query, value, CENTRE + torch.inf, pairs)
    assert torch.isfinite(far).all() and not torch.equal(far[sees], clean[sees])


@pytest.mark.parametrize("path", ["torch", "cpp"])
@pytest.mark.parametrize(("queries", "images"), [(0, 3), (0, 0), (4, 0)])
def test_no_queries_and_no_images(path: Path, queries: int, images: int) -> None:
    module, query, value, mask = module_and_inputs(4)
    module.path = path
    query = query[:queries].clone().requires_grad_()
    output = module(query, value[:images], CENTRE, pairs_from_mask(mask[:, :queries, :images]))
    assert output.shape == (queries, WIDTH)
    assert_close(output, module.unseen().expand(queries, -1) if not images else output, "module")
    output.sum().backward()
    assert query.grad is not None and query.grad.count_nonzero() == 0


@pytest.mark.parametrize("path", ["torch", "cpp"])
def test_strides_do_not_matter(path: Path) -> None:
    module, query, value, mask = module_and_inputs()
    module.path, pairs = path, pairs_from_mask(mask)
    strided = torch.stack((query, query), dim=-1)[..., 0], value.transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(module(*strided, CENTRE, pairs), module(query, value, CENTRE, pairs), "module")
    one = query[:1].expand(5, -1), value[:1].expand(3, -1, -1, -1)
    assert_close(module(*one, CENTRE, pairs), module(*(each.contiguous() for each in one), CENTRE, pairs), "module")


def test_another_device_and_images_that_are_not_there_are_named() -> None:
    module, query, value, mask = module_and_inputs()
    pairs = pairs_from_mask(mask)
    with pytest.raises(ValueError, match="value is on meta"):
        module(query, value.to("meta"), CENTRE, pairs)
    with pytest.raises(ValueError, match=r"image: 0\.\.2, but there are 2 images"):
        module(query, value[:2], CENTRE, pairs)


@pytest.mark.parametrize("path", ["torch", "cpp"])
@pytest.mark.parametrize("queries", [5, 60])
def test_gradients_are_the_same_bits_over_runs_and_threads(path: Path, queries: int) -> None:
    module, query, value, mask = module_and_inputs(queries)
    module.path, pairs = path, pairs_from_mask(mask)
    leaves = [query.requires_grad_(), *(each for name, each in module.named_parameters() if not name.startswith("value_proj"))]
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append(torch.autograd.grad(module(query, value.detach(), CENTRE, pairs).square().sum(), leaves))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("name", ["mmfs_llm", "mmfs_unet"])
def test_equals_the_official_tensors(data_dir: File, name: str) -> None:
    settings = json.loads((data_dir / f"{name}.json").read_text())
    tensors = load_file(data_dir / f"{name}.safetensors")
    config = SamplerConfig(
        heads=settings["num_heads"],
        points=settings["num_points"],
        inner=settings["inner_dim"],
        levels=tuple(settings["level_sizes"]),
        table_rows=settings["distance_table_rows"],
        offset_init=settings["offset_init_magnitude"],
        train_sink=True,
    )
    module = MMFS(settings["query_dim"], settings["value_dim"], config, settings["base_size"])
    module.load_state_dict({key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")})
    query, value = tensors["input.query"].requires_grad_(), tensors["input.value"].requires_grad_()
    mask = tensors["input.image_mask"]
    mask = mask if mask.dim() == 3 else mask[:, None].expand(-1, query.shape[1], -1)
    reference = tensors["input.reference_points"].view(-1, 2).repeat(len(query), 1)
    output = module(query.flatten(0, 1), module.project(value.flatten(0, 1)), reference, pairs_from_mask(mask)).view_as(query)
    assert_close(output, tensors["output"], "module", "output")
    output.backward(tensors["grad.output"])
    assert query.grad is not None
    assert value.grad is not None
    assert_close(query.grad, tensors["grad.query"], "module", "query")
    assert_close(value.grad, tensors["grad.value"], "module", "value")
    for parameter_name, parameter in module.named_parameters():
        stored = tensors.get(f"grad.param.{parameter_name}")
        if stored is not None:
            assert parameter.grad is not None
            assert_close(parameter.grad, stored, "module", parameter_name)
