"""The whole model against the tensors of the official code, part by part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kernels.testing import assert_close, relative_error
from model.batch import InterleavedBatch
from model.build import build_model
from model.decoding import DecodingState
from model.mm_interleaved import MMInterleaved
from model.presets import preset
from model.sequence import Layout, plan
from model.visual_tokenizer import VisualFeatures
from model.weights import load_weights


class Official:
    """The official tiny model, its batch and its tensors."""

    def __init__(self, folder: Path) -> None:
        self.config = preset("official_tiny", vocab_size=100)
        self.model: MMInterleaved = build_model(self.config, seed=0).eval()
        load_weights(self.model, [load_file(folder / "model_state.safetensors")])
        self.tensors: dict[str, Tensor] = load_file(folder / "model_activations.safetensors")
        ids = self.tensors["input.text_ids"]
        boi = (ids == self.config.tokens.boi).nonzero()
        count = len(boi)
        targets = torch.zeros_like(ids, dtype=torch.bool)
        targets[:, 1:] = self.tensors["llm.target_ids"] != -100
        self.batch = InterleavedBatch(
            text_ids=ids,
            attention_mask=self.tensors["input.attention_mask"].bool(),
            document_ids=(ids == self.config.bos_id).cumsum(1),
            targets_mask=targets,
            images=self.tensors["input.images_224"],
            target_images=torch.zeros(count, 3, 128, 128),
            image_row=boi[:, 0],
            image_column=boi[:, 1],
            image_loss_mask=torch.ones(count, dtype=torch.bool),
            drop_condition=torch.zeros(count, dtype=torch.bool),
            timesteps_u=torch.zeros(count),
            noise=torch.zeros(count, *self.config.shape.latent_shape),
        )
        self.layout: Layout = plan(self.batch, self.config)
        with torch.no_grad():
            self.features: VisualFeatures = self.model.visual_tokenizer(self.batch.images)
            self.hidden = self.model.hidden_states(self.batch.text_ids, self.features, self.layout)


@pytest.fixture(scope="module")
def official(golden_dir: Path) -> Official:
    return Official(golden_dir)


def test_visual_tokens(official: Official) -> None:
    assert_close(official.features.tokens, official.tensors["visual.tokens"], "model")


def test_pyramid(official: Official) -> None:
    """The random adapter amplifies rounding: at one level the official maps are 8.7e-5 from float64, which is the yardstick."""
    exact_model = build_model(official.config, seed=0).eval()
    exact_model.load_state_dict(official.model.state_dict())
    with torch.no_grad():
        exact = exact_model.double().visual_tokenizer(official.batch.images.double())
    for level, (ours, truth) in enumerate(zip(official.features.maps, exact.maps, strict=True)):
        assert relative_error(official.tensors[f"visual.features.{level}"], truth) < 1e-4
        assert relative_error(ours, truth) < 1e-4


def test_language_model(official: Official) -> None:
    layout, tensors = official.layout, official.tensors
    model, batch = official.model, official.batch
    with torch.no_grad():
        embeddings = model.embed(batch.text_ids, official.features.tokens, layout.is_image, layout.image_token, layout.is_boi)
        logits = model.text_decoder(official.hidden)
        loss = model(batch, layout, image_weight=0.0).text_loss
    assert_close(embeddings, tensors["llm.inputs_embeds"], "model", "embeddings")
    assert_close(official.hidden, tensors["llm.hidden"], "model", "hidden")
    assert_close(logits, tensors["llm.logits"], "model", "logits")
    assert_close(loss.view(1), tensors["llm.text_loss"], "model", "loss")


def test_text_that_no_picture_precedes_is_read_as_in_a_row_with_pictures(official: Official) -> None:
    columns = int(official.batch.image_column[official.batch.image_row == 0].min())
    state = DecodingState(official.model, 1)
    with torch.no_grad():
        state.append([official.batch.text_ids[0, :columns].tolist()])
    assert_close(state.hidden[0], official.tensors["llm.hidden"][0, :columns], "model", "hidden")


def test_bfloat16_gives_nearly_the_same_logits(official: Official) -> None:
    half = build_model(official.config, seed=0).eval()
    half.load_state_dict(official.model.state_dict())
    half = half.to(torch.bfloat16)
    with torch.no_grad():
        hidden = half.hidden_states(official.batch.text_ids, half.visual_tokenizer(official.batch.images), official.layout)
        logits = half.text_decoder(hidden)
    assert relative_error(logits, official.tensors["llm.logits"]) < 2e-2


def test_visibility_is_exact(official: Official) -> None:
    rows, columns = official.batch.text_ids.shape
    seen = torch.zeros(rows * columns, len(official.batch.images))
    seen[official.layout.pairs.query, official.layout.pairs.image] = 1
    assert_close(torch.stack((seen[:columns, :3], seen[columns:, 3:])).long(), official.tensors["llm.image_mask"].long(), "model")


def test_image_decoder(official: Official) -> None:
    layout, tensors, model = official.layout, official.tensors, official.model
    looking = torch.zeros(len(official.batch.images), 1, dtype=torch.int64)
    looking[layout.references.query] = 1
    assert_close(looking, tensors["decoder.mmfs_mask"], "model", "who sees the previous image")
    assert_close(layout.context_mask.long(), tensors["decoder.context_mask"], "model", "context mask")
    with torch.no_grad():
        context = model.context(official.hidden, layout.context, layout.context_mask)
        condition = model.image_decoder.condition(context, layout.context_mask)
        levels = official.features.levels(official.config.image_decoder.mmfs.levels)
        decoder = model.image_decoder.decoder
        references = decoder.references(levels[layout.looked_at], layout.references)
        epsilon = decoder(tensors["decoder.latents"], tensors["decoder.timesteps"], condition, references)
    assert_close(context, tensors["decoder.context"], "model", "context")
    assert_close(condition, tensors["decoder.condition_tokens"], "model", "condition")
    assert_close(epsilon, tensors["decoder.epsilon"], "model", "epsilon")
