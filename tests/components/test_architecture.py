"""The axes of the parameters reach the model's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from components.architecture import architecture
from components.params import ModelParams, ParamsError
from components.pretrain import check_device
from components.run.failures import FailureClass, StageError
from components.run.parameters import resolve
from model.config import ConfigError, ModelConfig
from model.presets import NEEDS_GPU, PRESETS, preset

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ("official_tiny", "ablation_3b", "release_13b", "paper_13b")
TEXT_ALONE = tuple(f"{key}.image_loss_weight=0" for key in ("pretrain", "finetune.segmentation", "finetune.story"))


def chosen(**values: Any) -> ModelConfig:
    return architecture(ModelParams(preset="tiny", **values), vocab_size=300)


def test_nothing_chosen_is_the_preset() -> None:
    assert chosen() == preset("tiny", vocab_size=300)


@pytest.mark.parametrize(
    ("values", "reads"),
    [
        ({"cross_attention": "dense"}, lambda config: config.cross_attention == "dense"),
        ({"decoder_images": "all"}, lambda config: config.decoder_images == "all"),
        ({"visual_tokens": "learned"}, lambda config: config.visual_tokens == "learned"),
        ({"visual_token_count": 7}, lambda config: config.shape.num_visual_tokens == 7),
        ({"multi_scale": False}, lambda config: config.language.mmfs.levels == config.image_decoder.mmfs.levels == (2,)),
        ({"mmfs_form": "paper"}, lambda config: config.language.mmfs.form == config.image_decoder.mmfs.form == "paper"),
        ({"mmfs_wiring": "upsampling"}, lambda config: config.image_decoder.wiring == "upsampling"),
        (
            {"sampling_path": "cpp"},
            lambda config: [config.vision.path, config.language.mmfs.path, config.image_decoder.mmfs.path] == ["cpp"] * 3,
        ),
        ({"mmfs_linears": "bfloat16"}, lambda config: config.language.mmfs.linears == config.image_decoder.mmfs.linears == "bfloat16"),
        ({"image_px": 64}, lambda config: (config.shape.image_px, config.shape.num_visual_tokens) == (64, 16)),
        ({"image_px": 64, "visual_token_count": 5}, lambda config: config.shape.num_visual_tokens == 5),
    ],
)
def test_an_axis_is_one_value(values: dict[str, Any], reads: Any) -> None:
    assert reads(chosen(**values))


def test_an_impossible_size_names_the_key() -> None:
    with pytest.raises(ConfigError, match="image_px"):
        chosen(image_px=40)


def test_every_preset_may_be_named_in_the_parameters() -> None:
    assert set(get_args(ModelParams.model_fields["preset"].annotation)) == PRESETS.keys()
    assert PRESETS.keys() >= NEEDS_GPU


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_speaks_the_tokenizer_of_the_corpus(name: str) -> None:
    tokens = architecture(ModelParams(preset=name), vocab_size=300).tokens  # type: ignore[arg-type]
    assert (tokens.pad, tokens.bos, tokens.eos, tokens.boi, tokens.image) == (0, 1, 2, 300, 301)


@pytest.mark.parametrize("name", PUBLISHED)
def test_pictures_need_a_trained_autoencoder(name: str) -> None:
    with pytest.raises(ParamsError, match=rf"pretrain: preset {name} draws .* pretrain\.image_loss_weight to 0 for text alone"):
        resolve(ROOT, overrides=[f"model.preset={name}"])
    with pytest.raises(ParamsError, match=r"finetune\.story\.image_loss_weight to 0"):
        resolve(ROOT, overrides=[f"model.preset={name}", *TEXT_ALONE[:2]])
    assert resolve(ROOT, overrides=[f"model.preset={name}", *TEXT_ALONE])["model"]["preset"] == name


def test_billions_of_parameters_need_a_gpu() -> None:
    for name in PRESETS:
        check_device(name, "NVIDIA H100")
    check_device("official_tiny", "cpu")
    with pytest.raises(StageError, match=r"model\.preset: release_13b .* no GPU") as error:
        check_device("release_13b", "cpu")
    assert error.value.failure is FailureClass.BAD_CONFIG
