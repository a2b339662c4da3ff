"""Cached batched generation against the packed forward, and what decides its outcome."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from packed_rows import MakeBatch, as_if_trained, picture

from kernels.testing import assert_close, relative_error
from model.build import build_model
from model.choosing import Choosing
from model.config import ModelConfig
from model.decoding import DecodingState
from model.generation import (
    GeneratedImage,
    GeneratedText,
    GenerationOptions,
    generate,
    generate_images,
    generate_text,
)
from model.mm_interleaved import MMInterleaved
from model.prompts import Prompt, read_prompts
from model.protocols import Drawing, PictureContext, Scheduler
from model.scoring import score_options
from model.sequence import Pairs, plan

FAST = GenerationOptions(max_new_tokens=6, max_images=2, steps=2, choosing=Choosing(temperature=1.0))


@pytest.fixture(scope="module")
def prompts(config: ModelConfig) -> list[Prompt]:
    one, two = picture(0, config), picture(1, config)
    return [Prompt("a", ((5, 6), one, (7,))), Prompt("b", ((8, 9, 10, 11),)), Prompt("c", (one, two, (12,))), Prompt("d", ())]


@pytest.mark.parametrize(
    "differs",
    [{}, {"visible_images": "nearest"}, {"cross_attention": "dense"}, {"cross_attention": "dense_resampler"}, {"cross_attention": "off"}],
    ids=str,
)
def test_reading_piece_by_piece_equals_the_packed_forward(config: ModelConfig, make_batch: MakeBatch, differs: dict[str, Any]) -> None:
    model = as_if_trained(build_model(replace(config, **differs), seed=0)).eval()
    batch = make_batch([[[5, "image", 6, 7, "image", 8]], [[9, 10, "image", 11]]], columns=24)
    with torch.no_grad():
        features = model.visual_tokenizer(batch.images)
        packed = model.hidden_states(batch.text_ids, features, plan(batch, model.config))
        state = DecodingState(model, 2)
        length = [int(row.sum()) for row in batch.attention_mask]
        tokens = [row[:count].tolist() for row, count in zip(batch.text_ids, length, strict=True)]
        split = 3 + config.visual_resampler.queries
        state.append([tokens[0][:2], tokens[1][:3]])  # text alone
        state.append([tokens[0][2:split], []], model.visual_tokenizer(batch.images[:1]))
        state.append(
            [tokens[0][split : split + 3], tokens[1][3 : 4 + config.visual_resampler.queries]], model.visual_tokenizer(batch.images[2:])
        )
        state.append([tokens[0][split + 3 :], []], model.visual_tokenizer(batch.images[1:2]))
        state.append([[], tokens[1][4 + config.visual_resampler.queries :]])
    for row, count in enumerate(length):
        assert_close(state.hidden[row][state.valid[row]], packed[row, :count], "model", f"row {row}")


def test_a_drawn_picture_sees_what_the_packed_decoder_sees(config: ModelConfig, network: MMInterleaved, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, "image", 6, "image", 8]]])
    layout = plan(batch, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        features = network.visual_tokenizer(batch.images)
        hidden = network.hidden_states(batch.text_ids, features, layout)
        tokens = network.context(hidden, layout.context, layout.context_mask)
        looked_at = features.levels(config.image_decoder.mmfs.levels)[:1]
        pairs = Pairs(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))
        context = PictureContext(tokens[1:], layout.context_mask[1:], looked_at, pairs, lambda: DecodingState(network, 1))
    expected = network.image_decoder.sample(context, [generator], Drawing(steps=3))
    assert not expected.requires_grad, "no graph is kept over the steps"
    options = GenerationOptions(steps=3, guidance=2.0, seed=0)
    begin = [Prompt("p", ((5,), batch.images[0], (6,)))]
    state = DecodingState(network, 1)
    column = int(batch.image_column[1])
    with torch.no_grad():
        state.append([batch.text_ids[0, : column + 1].tolist()], network.visual_tokenizer(batch.images[:1]))
        actual = state.draw([0], [generator.manual_seed(5)], Drawing(steps=3))
    assert_close(actual, expected, "model")
    assert generate_images(network, begin, options).shape == (1, 3, config.image_decoder.output_px, config.image_decoder.output_px)


def test_a_result_does_not_depend_on_its_neighbours(talkative: MMInterleaved, prompts: list[Prompt]) -> None:
    together = generate(talkative, prompts, FAST)
    again = generate(talkative, prompts[::-1], FAST)[::-1]
    for prompt, result, other in zip(prompts, together, again, strict=True):
        for pieces in (generate(talkative, [prompt], FAST)[0], other):
            assert [type(piece) for piece in pieces] == [type(piece) for piece in result]
            for mine, theirs in zip(pieces, result, strict=True):
                if isinstance(mine, GeneratedImage) and isinstance(theirs, GeneratedImage):
                    assert_close(mine.pixels, theirs.pixels, "model")
                else:
                    assert mine == theirs
    assert any(isinstance(piece, GeneratedImage) for result in together for piece in result)


def test_the_seed_and_the_id_decide(talkative: MMInterleaved, prompts: list[Prompt]) -> None:
    first = generate_images(talkative, prompts[:1], FAST)
    assert torch.equal(first, generate_images(talkative, prompts[:1], FAST))
    assert not torch.equal(first, generate_images(talkative, prompts[:1], replace(FAST, seed=1)))
    assert not torch.equal(first, generate_images(talkative, [replace(prompts[0], id="other")], FAST))


def test_forced_modes_keep_to_one_modality(talkative: MMInterleaved, prompts: list[Prompt], config: ModelConfig) -> None:
    special = {config.tokens.boi, config.tokens.image, config.tokens.bos, config.tokens.pad, config.tokens.eos}
    texts = generate_text(talkative, prompts, replace(FAST, max_new_tokens=5))
    assert all(len(ids) <= 5 and not special & set(ids) for ids in texts)
    assert generate_images(talkative, prompts, FAST).shape[0] == len(prompts)


def test_pieces_are_heard_in_order_and_budgets_hold(talkative: MMInterleaved, prompts: list[Prompt]) -> None:
    heard: dict[str, list[object]] = {prompt.id: [] for prompt in prompts}
    results = generate(talkative, prompts, FAST, lambda name, piece: heard[name].append(piece))
    for prompt, result in zip(prompts, results, strict=True):
        told = [token for piece in result for token in (piece.ids if isinstance(piece, GeneratedText) else ["picture"])]
        assert told == [piece if isinstance(piece, int) else "picture" for piece in heard[prompt.id]]
        assert told.count("picture") <= FAST.max_images
        assert len(told) - told.count("picture") <= FAST.max_new_tokens
        assert [piece.ended for piece in result[:-1] if isinstance(piece, GeneratedText)] == [False] * sum(
            isinstance(piece, GeneratedText) for piece in result[:-1]
        )


def test_pictures_are_drawn_a_few_at_once(talkative: MMInterleaved, prompts: list[Prompt]) -> None:
    sizes: list[int] = []
    handle = talkative.image_decoder.decoder.unet.conv_in.register_forward_hook(lambda _module, given, _result: sizes.append(len(given[0])))
    together = generate_images(talkative, prompts[:3], FAST)
    apart = generate_images(talkative, prompts[:3], replace(FAST, pictures_at_once=2))
    handle.remove()
    assert sizes == [6, 6, 4, 4, 2, 2]  # two passes of guidance, two steps
    assert_close(apart, together, "model")


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_every_sampler_draws_in_range(talkative: MMInterleaved, prompts: list[Prompt], scheduler: str) -> None:
    pictures = generate_images(talkative, prompts[:2], replace(FAST, scheduler=scheduler))  # type: ignore[arg-type]
    assert torch.isfinite(pictures).all()
    assert 0 <= pictures.min() <= pictures.max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_nearly_the_same(config: ModelConfig, prompts: list[Prompt], dtype: torch.dtype) -> None:
    full, half = build_model(config, seed=1).eval(), build_model(config, seed=1).eval().to(dtype)
    options = replace(FAST, mode="image")
    pictures = [generate_images(model, prompts, options) for model in (full, half)]
    assert relative_error(pictures[1], pictures[0]) < 2e-2
    results = generate(half, prompts, replace(FAST, choosing=Choosing(beams=2)))
    assert len(results) == len(prompts)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("shared", ["bos_id", "pad_id"])
def test_a_text_ends_where_its_end_has_another_use_too(config: ModelConfig, shared: str, beams: int) -> None:
    model = build_model(replace(config, **{shared: config.eos_id}), seed=0).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        model.text_decoder.head.bias[config.eos_id] = 50.0
    options = replace(FAST, mode="text", choosing=Choosing(beams=beams))
    assert generate(model, [Prompt("a", ((5,),))], options) == [[GeneratedText((), True)]]


def test_a_prompt_may_begin_with_its_own_bos(talkative: MMInterleaved, config: ModelConfig) -> None:
    with_bos, without = Prompt("x", ((config.tokens.bos,), (5, 6))), Prompt("x", ((5, 6),))
    assert generate_text(talkative, [with_bos], FAST) == generate_text(talkative, [without], FAST)


def test_unusable_requests_are_named(talkative: MMInterleaved, config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        generate(talkative, [], FAST)
    with pytest.raises(ValueError, match=r"'p': a picture is \(3, 5, 5\)"):
        generate(talkative, [Prompt("p", (torch.zeros(3, 5, 5),))], FAST)
    with pytest.raises(ValueError, match="evaluation mode"):
        generate(build_model(config, seed=0).train(), [Prompt("p", ())], FAST)


def test_options_score_as_if_each_were_read_alone(network: MMInterleaved, config: ModelConfig) -> None:
    prompt = Prompt("p", ((5, 6), picture(0, config), (7,)))
    options = [(9,), (9, 10, 11), (12, 9), (9, 10)]
    scores = score_options(network, prompt, options)
    for option, score in zip(options, scores, strict=True):
        state = DecodingState(network, 1)
        with torch.no_grad():
            read_prompts(state, [prompt])
            alone = 0.0
            for token in option:
                alone += float(state.logits().log_softmax(-1)[0, token])
                state.append([[token]])
        assert_close(torch.tensor(score), torch.tensor(alone), "model", str(option))
    assert score_options(network, prompt, options, batch=1) == pytest.approx(scores, rel=1e-5)


def test_unusable_options_are_named(network: MMInterleaved, config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="option 1 of prompt 'p' is empty"):
        score_options(network, Prompt("p", ((5,),)), [(6,), ()])
    with pytest.raises(ValueError, match="more than 1024 tokens"):
        score_options(network, Prompt("p", ((5,) * 1000,)), [(6,) * 30])
