"""The ViT under the adapter is the library's, family by family, when the adapter injects nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import CLIPVisionModel, PreTrainedModel, SiglipVisionModel

from kernels.testing import assert_close
from model.config import ModelConfig
from model.vision_encoder import VisionModel
from model.vision_families import VISION_FAMILIES

LIBRARY: dict[str, type[PreTrainedModel]] = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}


@pytest.mark.parametrize("name", VISION_FAMILIES)
def test_hidden_states_are_the_librarys(config: ModelConfig, name: str) -> None:
    torch.manual_seed(0)
    vision = replace(config.vision, family=name, injector_gamma=0.0)
    theirs = LIBRARY[name](VISION_FAMILIES[name].settings(vision)).eval()
    ours = VisionModel(vision).eval()
    tensors = {key.removeprefix("vision_model."): tensor for key, tensor in theirs.state_dict().items()}
    missing, extra = ours.load_state_dict(tensors, strict=False)
    assert all(key.startswith("adapter_") for key in missing)
    assert all(key.startswith(("post_layernorm", "head")) for key in extra)
    pixels = torch.randn(2, 3, vision.image_px, vision.image_px)
    with torch.no_grad():
        hidden, maps = ours(pixels)
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-1]
    assert_close(hidden, expected, "model")
    assert hidden.shape[1] == vision.grid**2 + vision.class_tokens
    assert [each.shape[-1] for each in maps] == list(vision.pyramid)
