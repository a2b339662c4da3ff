"""What cannot be used is named, with what to do, before any work: prompts, options to score, batches to train on, settings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from packed_rows import Document, MakeBatch
from torch import Tensor

from model.batch import InputError
from model.build import build_model
from model.choosing import Choosing
from model.config import ModelConfig
from model.generation import GeneratedImage, GenerationOptions, generate
from model.mm_interleaved import MMInterleaved
from model.prompts import Items, Prompt
from model.scoring import score_options
from model.sequence import plan
from model.session import Session

FEW = GenerationOptions(max_new_tokens=12, steps=1)


def grey(config: ModelConfig, value: float = 0.5) -> Tensor:
    return torch.full((3, config.vision.image_px, config.vision.image_px), value)


def spoiled(config: ModelConfig, value: float) -> Tensor:
    picture = grey(config)
    picture[1, 2, 3] = value
    return picture


def refused(model: MMInterleaved, items: Items) -> str:
    with pytest.raises(InputError) as caught:
        generate(model, [Prompt("good", ((5,),)), Prompt("bad", items)], FEW)
    assert "'bad'" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_prompt_with_pixels_that_are_no_numbers(network: MMInterleaved, config: ModelConfig, value: float) -> None:
    assert "a picture has NaN or infinite values" in refused(network, ((5,), spoiled(config, value)))


@pytest.mark.parametrize("value", [255.0, -2.1])
def test_a_prompt_with_pixels_of_another_scale(network: MMInterleaved, config: ModelConfig, value: float) -> None:
    assert "expected 0 to 1; divide bytes by 255" in refused(network, (spoiled(config, value),))


def test_a_prompt_that_is_longer_than_the_model_reads(network: MMInterleaved, config: ModelConfig) -> None:
    assert "has 1031 tokens; the model reads at most 1024; shorten it (a picture takes 5)" in refused(
        network, ((5,) * 1020, grey(config), (6,) * 5)
    )


@pytest.mark.parametrize(("index", "fix"), [(-1, "tokenizer"), (40, "give pictures as pictures"), (41, "as pictures"), (42, "tokenizer")])
def test_a_prompt_with_ids_of_another_vocabulary(network: MMInterleaved, index: int, fix: str) -> None:
    told = refused(network, ((5, index),))
    assert f"token id {index} is outside the model's vocabulary of 40" in told
    assert fix in told


def test_a_prompt_with_ids_that_are_no_integers(network: MMInterleaved) -> None:
    assert "token id 6.5 is no integer" in refused(network, ((5, 6.5),))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint8])
def test_a_prompt_with_a_picture_of_another_type(network: MMInterleaved, config: ModelConfig, dtype: torch.dtype) -> None:
    assert "expected floats from 0 to 1; divide bytes by 255" in refused(network, (grey(config, 0).to(dtype),))


def test_more_steps_than_were_learned_are_refused_before_anything_is_read(network: MMInterleaved) -> None:
    for prompts in ([Prompt("a", ((5,),))], [Prompt("a", ((99,),))]):
        with pytest.raises(ValueError, match="steps is 5000, this model draws in at most 1000"):
            generate(network, prompts, replace(FEW, mode="image", steps=5000))
    with pytest.raises(ValueError, match="steps is 1001"):
        Session.begin(network, [Prompt("a", ())]).generate(replace(FEW, steps=1001))


def test_scoring_needs_a_model_that_is_not_in_training_and_some_options_at_once(network: MMInterleaved, config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        score_options(build_model(config, seed=0).train(), Prompt("p", ()), [(5,)])
    with pytest.raises(ValueError, match="batch is 0, it must be at least 1"):
        score_options(network, Prompt("p", ()), [(5,)], batch=0)


def test_an_option_of_another_vocabulary(network: MMInterleaved) -> None:
    with pytest.raises(InputError, match=r"option 1 of prompt 'p': token id 77 is outside the model's vocabulary of 40"):
        score_options(network, Prompt("p", ((5,),)), [(6,), (7, 77)])


def test_a_prompt_with_more_pictures_than_the_tables_hold(network: MMInterleaved, config: ModelConfig) -> None:
    assert "has 60 pictures; the model's distance tables tell 49 apart; leave out" in refused(network, (grey(config),) * 60)


def test_sixty_pictures_are_read_where_each_place_sees_one(config: ModelConfig) -> None:
    nearest = build_model(replace(config, visible_images="nearest"), seed=0).eval()
    assert generate(nearest, [Prompt("a", (grey(config),) * 60)], replace(FEW, mode="image"))


def test_a_model_begins_no_picture_that_its_tables_do_not_hold(config: ModelConfig) -> None:
    language = replace(config.language, mmfs=replace(config.language.mmfs, table_rows=4))
    model = build_model(replace(config, language=language), seed=1).eval()
    with torch.no_grad():
        model.text_decoder.head.bias[config.tokens.boi] = 20.0
    results = generate(model, [Prompt("a", (grey(config),)), Prompt("b", ())], FEW)
    assert [sum(isinstance(piece, GeneratedImage) for piece in result) for result in results] == [2, 3]


def test_special_tokens_of_another_vocabulary(config: ModelConfig) -> None:
    model = build_model(replace(config, pad_id=99), seed=0).eval()
    with pytest.raises(ValueError, match="pad_id 99, bos_id 1, eos_id 2: not all in the vocabulary of 40"):
        generate(model, [Prompt("a", ())], FEW)


def test_prompts_without_pictures_and_without_anything(network: MMInterleaved) -> None:
    assert len(generate(network, [Prompt("a", ((5, 6),)), Prompt("b", ())], replace(FEW, mode="text"))) == 2


@pytest.mark.parametrize("name", ["images", "target_images"])
def test_a_batch_with_a_picture_that_is_no_picture(config: ModelConfig, make_batch: MakeBatch, name: str) -> None:
    batch = make_batch([[[5, "image", 6]], [[7, 8, "image"]]])
    for value, told in ((math.nan, "has NaN or infinite values"), (200.0, "has values from 0.* to 200, expected 0 to 1")):
        pictures = batch.images.clone()
        pictures[1, 0, 3, 3] = value
        with pytest.raises(InputError, match=rf"{name}: picture 1 \(row 1, column 3\) {told}"):
            plan(replace(batch, **{name: pictures}), config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("text_ids", (80,), r"text_ids are torch.int64 of \(80,\), expected int64 of \(rows, tokens\)"),
        ("targets_mask", (2, 39), r"targets_mask is \(2, 39\), expected \(2, 40\) for 2 rows with 2 pictures"),
        ("images", (2, 3, 48, 48), r"images is \(2, 3, 48, 48\), expected \(2, 3, 32, 32\)"),
        ("images", (1, 3, 32, 32), r"images is \(1, 3, 32, 32\), expected \(2, 3, 32, 32\)"),
        ("target_images", (2, 3, 40, 40), r"target_images is \(2, 3, 40, 40\), expected \(2, 3, 32, 32\)"),
        ("image_loss_mask", (3,), r"image_loss_mask is \(3,\), expected \(2,\)"),
        ("noise", (2, 2, 8, 8), r"noise is \(2, 2, 8, 8\), expected \(2, 48, 8, 8\)"),
        ("posterior_noise", (2, 2, 8, 8), "posterior_noise is"),
    ],
)
def test_a_batch_of_other_shapes(config: ModelConfig, make_batch: MakeBatch, name: str, shape: tuple[int, ...], told: str) -> None:
    batch = make_batch([[[5, "image", 6]], [[7, 8, "image"]]])
    old = batch.noise if name == "posterior_noise" else getattr(batch, name)
    with pytest.raises(InputError, match=told):
        plan(replace(batch, **{name: torch.zeros(shape, dtype=old.dtype)}), config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("noise", math.nan, r"picture 1 \(row 1, column 3\) has NaN or infinite values in noise"),
        ("posterior_noise", math.inf, "picture 1 .* values in posterior_noise"),
        ("timesteps_u", 1.0, "picture 1 .* has a timesteps_u outside 0 to 1"),
        ("timesteps_u", math.nan, "picture 1 .* has a timesteps_u outside 0 to 1"),
    ],
)
def test_a_batch_with_random_values_that_are_none(config: ModelConfig, make_batch: MakeBatch, name: str, value: float, told: str) -> None:
    batch = make_batch([[[5, "image", 6]], [[7, 8, "image"]]])
    drawn = batch.timesteps_u.clone() if name == "timesteps_u" else batch.noise.clone()
    drawn[1] = value
    with pytest.raises(InputError, match=told):
        plan(replace(batch, **{name: drawn}), config)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["text_ids", "image_row", "image_column", "document_ids"])
def test_a_batch_with_numbers_that_are_no_integers(config: ModelConfig, make_batch: MakeBatch, name: str) -> None:
    batch = make_batch([[[5, "image", 6]]])
    with pytest.raises(InputError, match=rf"{name} \w+ torch.float32.* expected int64"):
        plan(replace(batch, **{name: getattr(batch, name).float()}), config)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 42])
def test_a_batch_of_another_vocabulary(config: ModelConfig, make_batch: MakeBatch, index: int) -> None:
    batch = make_batch([[[5, "image", 6, 7]]])
    ids = torch.where(batch.text_ids == 7, index, batch.text_ids)
    with pytest.raises(InputError, match=rf"text_ids hold {index}, the model's ids are 0 to 41 .* tokenizer that the model was made for"):
        plan(replace(batch, text_ids=ids), config)


def test_a_batch_of_rows_that_are_too_long(config: ModelConfig, make_batch: MakeBatch) -> None:
    with pytest.raises(InputError, match="rows have 1100 tokens, the model reads at most 1024; pack shorter rows"):
        plan(make_batch([[[5, "image"]]], columns=1100), config)


def test_many_pictures_are_no_matter_where_nothing_looks_at_them(config: ModelConfig, make_batch: MakeBatch) -> None:
    document: Document = ["image"] * 60
    blind = replace(config, cross_attention="off")
    assert len(plan(make_batch([[document]], columns=400), blind).decoded) == 59


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1, it must be at least 0"),
        ({"max_images": -1}, "max_images is -1"),
        ({"pictures_at_once": 0}, "pictures_at_once is 0, it must be at least 1"),
        ({"steps": 0}, "steps is 0, it must be at least 1"),
        ({"scheduler": "heun"}, "scheduler is 'heun', it must be one of ddpm, ddim, dpm, euler"),
        ({"guidance": math.nan}, "guidance is nan, it must be finite"),
        ({"mode": "images"}, "mode is 'images', it must be one of interleaved, text, image"),
        ({"max_new_tokens": 5, "choosing": Choosing(min_new_tokens=6)}, r"min_new_tokens is 6, it must be at most max_new_tokens \(5\)"),
    ],
)
def test_settings_out_of_range(values: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GenerationOptions(**values)  # type: ignore[arg-type]
