"""Folded and prepared linear layers of MMFS: the same module, in value and in every gradient, and never that of older weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from packed_rows import MakeBatch, as_if_trained
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kernels.testing import assert_close, relative_error
from model.build import build_model
from model.choosing import Choosing
from model.config import ConfigError, ModelConfig, SamplerConfig
from model.decoding import DecodingState
from model.generation import GenerationOptions, Prompt, generate
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.sequence import pairs_from_mask, plan

CONFIG = SamplerConfig(heads=2, points=3, inner=8, levels=(4, 2), table_rows=6, offset_init=2.0, train_sink=True)
WIDTH, VALUE = 40, 10
CENTRE = torch.full((1, 2), 0.5)


@pytest.fixture(params=["release", "paper"])
def module(request: pytest.FixtureRequest) -> MMFS:
    torch.manual_seed(0)
    made = MMFS(WIDTH, VALUE, replace(CONFIG, form=request.param), base_size=4)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def called(module: MMFS, fold: bool | None, queries: int = 5, *, forward: bool = False) -> list[Tensor]:
    """The output and every gradient, or the former alone; without `fold` the module chooses."""
    generator, like = torch.Generator().manual_seed(1), module.output_proj.weight
    query, features = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(like.dtype).requires_grad_()
        for shape in ((queries, WIDTH), (3, 20, VALUE))
    )
    mask = (torch.arange(queries)[:, None] % 4 > torch.arange(3)).long()[None]
    prepared = None if fold is None else module.prepare(fold=fold)
    output = module(query, module.project(features), CENTRE.to(like.dtype), pairs_from_mask(mask), prepared)
    if forward:
        return [output]
    return [output.detach(), *torch.autograd.grad(output.square().sum(), [query, features, *module.parameters()])]


def test_folded_layers_are_the_same_in_value_and_every_gradient(module: MMFS) -> None:
    module.double()
    names = ["output", "query", "features", *(name for name, _ in module.named_parameters())]
    for name, folded, plain in zip(names, called(module, True), called(module, False), strict=True):
        assert relative_error(folded, plain) <= 1e-13, name


def test_they_are_folded_where_that_is_less_arithmetic(module: MMFS) -> None:
    def flops(queries: int, fold: bool | None) -> int:
        with FlopCounterMode(display=False) as counter:
            called(module, fold, queries, forward=True)
        return int(counter.get_total_flops())

    for queries in (1, module.slots - 1):
        assert flops(queries, None) == flops(queries, False) < flops(queries, True)
    queries = module.slots + module.slots // 2
    assert flops(queries, None) == flops(queries, True) < flops(queries, False)


def _step(module: nn.Module) -> None:
    torch.optim.SGD(module.parameters(), lr=0.1).step()


def _behind_autograd(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.mul_(1.5)


def _replaced(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data * 1.5


def _loaded(module: nn.Module) -> None:
    module.load_state_dict({name: value * 1.5 for name, value in module.state_dict().items()})


@pytest.mark.parametrize("change", [_step, _behind_autograd, _replaced, _loaded, nn.Module.double])
@pytest.mark.parametrize("queries", [5, 60])
def test_nothing_of_older_weights_is_left(module: MMFS, change: Callable[[nn.Module], object], queries: int) -> None:
    for parameter, gradient in zip(module.parameters(), called(module, None, queries)[3:], strict=True):
        parameter.grad = gradient
    change(module)
    fresh = MMFS(WIDTH, VALUE, module.config, base_size=4).to(module.output_proj.weight.dtype)
    fresh.load_state_dict(module.state_dict())
    for ours, wanted in zip(called(module, None, queries), called(fresh, None, queries), strict=True):
        assert torch.equal(ours, wanted)


def test_a_session_and_a_drawing_take_the_weights_of_their_time(config: ModelConfig, make_batch: MakeBatch) -> None:
    model = as_if_trained(build_model(config, seed=0)).eval()
    picture = make_batch([[[5, "image", 6]]]).images[0]
    prompts, options = [Prompt("one", ((5, 6, 7), picture, (8,)))], GenerationOptions(mode="image", steps=2, max_new_tokens=4)
    before = drawn(model, prompts, options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.mul_(1.1)
    fresh = build_model(config, seed=1).eval()
    fresh.load_state_dict(model.state_dict())
    after = drawn(model, prompts, options)
    assert torch.equal(after, drawn(fresh, prompts, options))
    assert not torch.equal(after, before)


def drawn(model: MMInterleaved, prompts: list[Prompt], options: GenerationOptions) -> Tensor:
    [[picture]] = generate(model, prompts, options)
    pixels: Tensor = picture.pixels
    return pixels


def test_a_picture_is_projected_once_in_a_session(talkative: MMInterleaved, make_batch: MakeBatch) -> None:
    """Whatever is generated after it, word by word."""
    projected: list[int] = []
    talkative.mm_decoder.projection.register_forward_hook(lambda module, inputs, values: projected.append(len(inputs[0])))
    pictures = make_batch([[[5, "image", 6, "image"]]]).images
    [pieces] = generate(
        talkative, [Prompt("one", ((5,), *pictures))], GenerationOptions(mode="text", max_new_tokens=6, choosing=Choosing(min_new_tokens=6))
    )
    assert len(pieces[0].ids) == 6
    assert sum(projected) == len(pictures)


def test_a_session_gives_gradients_through_what_it_prepared(config: ModelConfig) -> None:
    model = build_model(config, seed=0)
    state = DecodingState(model, 2)
    state.append([[3, 4], [5]])
    state.logits().square().sum().backward()
    sink = model.mm_decoder.layers[0].llama_cross_attn.attn.ignore_token
    assert sink.grad is not None and torch.isfinite(sink.grad).all()


def narrowed(module: MMFS) -> MMFS:
    """The same weights with bfloat16 linear layers."""
    other = MMFS(WIDTH, VALUE, replace(module.config, linears="bfloat16"), base_size=4)
    other.load_state_dict(module.state_dict())
    return other


@pytest.mark.parametrize("fold", [True, False])
def test_bfloat16_layers_round_and_keep_types(module: MMFS, fold: bool) -> None:
    with torch.no_grad():
        module.sampling_offsets.weight.mul_(0.1)
    exact, rounded = called(copy.deepcopy(module).double(), fold), called(narrowed(module), fold)
    assert 1e-5 < relative_error(rounded[0], exact[0]) <= 2e-2
    assert all(each.dtype == torch.float32 for each in rounded)
    assert all(torch.isfinite(each).all() for each in rounded)


def test_a_whole_model_with_bfloat16_layers_and_each_path(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, "image", 6, "image", 7]]])
    losses = []
    for path, linears in (("torch", "own"), ("cpp", "own"), ("torch", "bfloat16")):
        language, decoder = config.language, config.image_decoder
        changed = replace(
            config,
            vision=replace(config.vision, path=path),
            language=replace(language, mmfs=replace(language.mmfs, path=path, linears=linears)),
            image_decoder=replace(decoder, mmfs=replace(decoder.mmfs, path=path, linears=linears)),
        )
        model = as_if_trained(build_model(changed, seed=0)).eval()
        losses.append(model(batch, plan(batch, changed)).loss.detach())
    assert_close(losses[1], losses[0], "model")
    assert 0 < relative_error(losses[2], losses[0]) <= 2e-2


def test_dense_attention_has_no_such_layers(config: ModelConfig) -> None:
    language = replace(config.language, mmfs=replace(config.language.mmfs, linears="bfloat16"))
    with pytest.raises(ConfigError, match=r"language\.mmfs\.linears"):
        replace(config, language=language, cross_attention="dense")
