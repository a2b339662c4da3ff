"""Every ablation axis of the paper (Tables 5 to 10) is a configuration value: each trains, decodes as it trains, and means what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from packed_rows import MakeBatch, pack
from torch import Tensor

from kernels.testing import assert_close
from model.ablations import at_input, with_form, with_one_level
from model.batch import InterleavedBatch
from model.build import build_model
from model.config import ConfigError, ModelConfig, SamplerConfig
from model.cross_attention import DenseAttention
from model.decoding import DecodingState
from model.generation import GenerationOptions, generate
from model.image_decoder import guidance_weights
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.presets import preset
from model.prompts import Prompt
from model.sequence import pairs_from_mask, plan

STORY: list[int | str] = [5, "image", 6, 7, "image", 8, "image"]
Change = Callable[[ModelConfig], ModelConfig]


def field(**values: Any) -> Change:
    return lambda config: replace(config, **values)


def decoder(**values: Any) -> Change:
    return lambda config: replace(config, image_decoder=replace(config.image_decoder, **values))


AXES: dict[str, Change] = {
    "dense": field(cross_attention="dense"),
    "dense_resampler": field(cross_attention="dense_resampler"),
    "off": field(cross_attention="off"),
    "learned_tokens": field(visual_tokens="learned"),
    "nearest": field(visible_images="nearest"),
    "decoder_sees_all": field(decoder_images="all"),
    "paper_form": lambda config: with_form(config, "paper"),
    "upsampling": decoder(wiring="upsampling"),
    "one_level": with_one_level,
    "siglip": lambda config: replace(config, vision=replace(config.vision, family="siglip", activation="gelu_pytorch_tanh")),
    "larger_input": lambda config: at_input(config, 2 * config.vision.image_px),
}


@pytest.fixture(scope="module", params=AXES)
def model(request: pytest.FixtureRequest, config: ModelConfig) -> MMInterleaved:
    return build_model(AXES[request.param](config), seed=0)


def story(config: ModelConfig) -> InterleavedBatch:
    """Three pictures in one document, for a model of any input size."""
    batch = pack(config, [[STORY]], columns=12 + 3 * config.visual_resampler.queries, seed=0)
    side = config.image_decoder.output_px
    return replace(batch, target_images=torch.nn.functional.interpolate(batch.images, size=(side, side)))


def test_it_trains_every_parameter(model: MMInterleaved) -> None:
    model.train()(story(model.config)).loss.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    read = {*model.config.language.mmfs.levels, *model.config.image_decoder.mmfs.levels}
    if model.config.cross_attention in ("off", "dense_resampler") or len(read) < 4:  # nobody reads the whole pyramid
        missing = [name for name in missing if not name.startswith("visual_tokenizer.encoder.vision_model.adapter_")]
    assert not missing
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    model.zero_grad()


def test_it_decodes_what_it_was_trained_on(model: MMInterleaved) -> None:
    """Token by token with caches, and a picture after two others, as in the packed forward."""
    model.eval()
    batch = story(model.config)
    layout = plan(batch, model.config)
    last = int(batch.image_column[2])
    ids, tokens = batch.text_ids[0].tolist(), model.config.tokens
    with torch.no_grad():
        features = model.visual_tokenizer(batch.images)
        packed = model.hidden_states(batch.text_ids, features, layout)
        expected = model.image_losses(batch, features, packed, layout)[0].sum()
        state, image, column = DecodingState(model, 1), 0, 0
        while column <= last:
            begins = ids[column] == tokens.image
            size = model.config.visual_resampler.queries if begins else 1
            state.append([ids[column : column + size]], model.visual_tokenizer(batch.images[image : image + 1]) if begins else None)
            image, column = image + begins, column + size
    assert torch.isfinite(expected)
    assert_close(state.hidden, packed[:, : last + 1], "model")
    context, third = state.context([0]), layout.references.query == 2
    with torch.no_grad():
        looked_up = model.looked_up(features, model.config.image_decoder.mmfs)[layout.looked_at]
        tokens_before = model.context(packed, layout.context, layout.context_mask)[2]
    assert_close(context.tokens[0], tokens_before, "model", "context")
    assert context.pairs.distance.tolist() == layout.references.distance[third].tolist()
    assert_close(context.looked_at[context.pairs.image], looked_up[layout.references.image[third]], "model", "looked at")


def test_it_generates(model: MMInterleaved) -> None:
    model.eval()
    side = model.config.vision.image_px
    prompts = [Prompt("a", ((5,), torch.rand(3, side, side), (6,))), Prompt("b", ((7, 8),))]
    results = generate(model, prompts, GenerationOptions(mode="image", steps=2, guidance=2.0, image_guidance=1.5))
    pictures = [piece.pixels for result in results for piece in result]  # type: ignore[union-attr]
    assert all(torch.isfinite(each).all() for each in pictures)


def test_without_cross_attention_it_is_the_model_whose_gates_are_shut(config: ModelConfig, make_batch: MakeBatch) -> None:
    shut = replace(config, language=replace(config.language, gate_init=0.0), image_decoder=replace(config.image_decoder, conv_init=0.0))
    with_module, without = build_model(shut, seed=0).eval(), build_model(replace(config, cross_attention="off"), seed=1).eval()
    tensors = with_module.state_dict()
    without.load_state_dict({name: tensors[name] for name in without.state_dict()})
    batch = make_batch([[STORY]])
    with torch.no_grad():
        assert torch.equal(with_module(batch).loss, without(batch).loss)


CONFIG = SamplerConfig(heads=2, points=3, inner=8, levels=(4, 2), table_rows=6, offset_init=0.3, train_sink=True, form="paper")
MASK = torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]]], dtype=torch.float64)


def test_the_paper_form_is_equation_4() -> None:
    torch.manual_seed(0)
    module = MMFS(12, 10, CONFIG, base_size=4).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    query, features = torch.randn(5, 12, dtype=torch.float64), torch.randn(3, 20, 10, dtype=torch.float64)
    centre = torch.full((1, 2), 0.5, dtype=torch.float64)
    actual = module(query, module.project(features), centre, pairs_from_mask(MASK))
    value = module.value_proj(features)
    for number, seen in enumerate(MASK[0]):
        images = seen.nonzero().flatten().tolist()
        samples, logits = [], []
        for m, image in enumerate(images, 1):
            asked = module.dynamic_offset_mask(query[number]) + module.query_relpos.weight[m]
            place = 0.5 + module.sampling_offsets(asked).view(2, 3, 2)
            logits.append(module.attention_weights(asked).view(2, 2, 3))
            for level, cells in enumerate(value[image].split([16, 4])):
                side = 4 if level == 0 else 2
                plane = cells.T.reshape(2, 4, side, side)
                sampled = torch.nn.functional.grid_sample(plane, (2 * place - 1).unsqueeze(1), align_corners=False)
                samples.append(sampled.squeeze(2))  # [heads, channels, points]
        if not images:
            expected = module.output_proj.bias
        else:
            weight = torch.stack(logits, dim=1).flatten(1).softmax(-1)  # [heads, images * levels * points]
            mixed = torch.einsum("hk,hck->hc", weight, torch.cat(samples, dim=2))
            expected = module.output_proj(mixed.flatten())
        assert_close(actual[number], expected, "module", f"query {number}")


def test_dense_attention_is_one_softmax_over_all_cells() -> None:
    torch.manual_seed(0)
    module = DenseAttention(12, 10, replace(CONFIG, form="release")).double()
    query, features = torch.randn(5, 12, dtype=torch.float64), torch.randn(3, 20, 10, dtype=torch.float64)
    pairs = pairs_from_mask(MASK)
    actual = module(query, module.project(features), torch.zeros(1, 2), pairs)
    key_value = module.key_value_proj(features).view(3, 20, 2, 8)
    asked = module.query_proj(query).view(5, 2, 4)
    assert_close(actual[0], module.output_proj.bias, "module", "sees nothing")
    for number in range(1, 5):
        own = pairs.query == number
        scores, values = [], []
        for image, distance in zip(pairs.image[own].tolist(), pairs.distance[own].tolist(), strict=True):
            key, value = key_value[image].chunk(2, dim=-1)
            scores.append(torch.einsum("hd,chd->hc", asked[number], key) / 2 + module.query_relpos.weight[distance][:, None])
            values.append(value)
        mixed = torch.einsum("hc,chd->hd", torch.cat(scores, 1).softmax(-1), torch.cat(values))
        assert_close(actual[number], module.output_proj(mixed.flatten()), "module", f"query {number}")


def test_learned_tokens_say_nothing_of_the_picture(config: ModelConfig) -> None:
    tokenizer = build_model(replace(config, visual_tokens="learned"), seed=0).eval().visual_tokenizer
    with torch.no_grad():
        features = tokenizer(torch.rand(2, 3, config.vision.image_px, config.vision.image_px))
    assert torch.equal(features.tokens[0], features.tokens[1])
    assert not torch.equal(features.maps[0][0], features.maps[0][1])


@pytest.mark.parametrize(
    ("guidance", "image_guidance", "weights"),
    [(1.0, 1.0, (1.0,)), (7.5, 1.0, (7.5, -6.5)), (8.0, 1.5, (8.0, -6.5, -0.5)), (1.0, 2.0, (1.0, 1.0, -1.0))],
)
def test_guidance_takes_as_many_passes_as_it_needs(guidance: float, image_guidance: float, weights: tuple[float, ...]) -> None:
    full, images, nothing = (torch.tensor(value) for value in (3.0, 5.0, 11.0))
    assert guidance_weights(guidance, image_guidance) == weights
    expected = guidance * (full - images) + image_guidance * (images - nothing) + nothing
    told: Tensor = sum(weight * value for weight, value in zip(weights, (full, images, nothing), strict=False))  # type: ignore[assignment]
    assert told == expected


def test_a_larger_input_moves_all_that_counts_cells() -> None:
    at_224 = preset("release_13b", vocab_size=32000)
    at_448 = at_input(at_224, 448)
    assert at_448.vision.pyramid == (128, 64, 32, 16)
    assert (at_448.language.mmfs.levels, at_448.language.mmfs_base) == ((64, 32, 16), 32)
    assert at_448.image_decoder.mmfs.levels == at_448.vision.pyramid
    assert at_input(at_448, 224) == at_224
    at_336 = at_input(at_224, 336)
    assert (at_336.vision.grid, at_336.vision.adapter_px, at_336.vision.pyramid) == (24, 384, (96, 48, 24, 12))
    assert (at_336.language.mmfs.levels, at_336.language.mmfs_base) == ((48, 24, 12), 24)
    with pytest.raises(ConfigError, match=r"vision\.image_px \(300\)"):
        at_input(at_224, 300)


def test_the_paper_form_begins_at_the_same_places() -> None:
    released = preset("release_13b", vocab_size=32000)
    paper = with_form(released, "paper")
    assert paper.language.mmfs.offset_init == 3 / 16
    assert with_form(paper, "release") == released


def test_more_images_than_the_table_holds_are_named(config: ModelConfig, make_batch: MakeBatch) -> None:
    document: list[int | str] = [item for _ in range(60) for item in ("image", 5)]
    batch = make_batch([[document]], columns=2 + 60 * (2 + config.visual_resampler.queries))
    with pytest.raises(ValueError, match=r"60 images .* language\.mmfs\.table_rows allows 49"):
        plan(batch, config)
    nearest = replace(config, visible_images="nearest")
    assert int(plan(batch, nearest).pairs.distance.max()) == 1
