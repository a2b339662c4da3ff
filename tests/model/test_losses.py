"""The release's rules for losses, and the corrections beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from packed_rows import MakeBatch
from safetensors.torch import load_file

from kernels.testing import assert_close
from model.build import build_model
from model.config import ModelConfig, TokenIds
from model.presets import preset
from model.sequence import plan
from model.targets import release_targets

TOKENS = TokenIds(pad=0, bos=1, eos=2, boi=90, image=91)
STORY = [5, 6, "image", 7, 8, "image", 9]


def test_targets_are_those_of_the_official_code(golden_dir: Path) -> None:
    tensors = load_file(golden_dir / "model_activations.safetensors")
    tokens = preset("official_tiny", vocab_size=100).tokens
    targets = release_targets(tensors["input.text_ids"], tensors["input.attention_mask"], tokens)
    assert torch.equal(targets[:, 1:], tensors["llm.target_ids"] != -100)


def test_every_rule_of_the_release() -> None:
    ids = torch.tensor([[1, 90, 91, 91, 5, 90, 91, 91, 2, 1, 6, 90, 91, 91, 2, 0]])
    said = [5, 90, 2, 6, 90, 2]
    mask = torch.ones_like(ids)
    assert ids[release_targets(ids, mask, TOKENS)].tolist() == said
    padded = mask.clone()
    padded[0, 14:] = 0
    assert ids[release_targets(ids, padded, TOKENS)].tolist() == said[:-1]
    prompt = torch.zeros_like(ids, dtype=torch.bool)
    prompt[0, :6] = True
    assert ids[release_targets(ids, mask, TOKENS, prompt=prompt)].tolist() == [2, 6, 90, 2]
    pairs = release_targets(ids, mask, TOKENS, only_after_image=torch.tensor([True]))
    assert ids[pairs].tolist() == [5, 90, 2, 90, 2]
    assert release_targets(ids, mask, TOKENS, only_after_image=torch.tensor([False])).sum() == len(said)


def test_a_document_that_goes_on_from_the_row_before_is_one_too() -> None:
    ids = torch.tensor([[5, 6, 90, 91, 91, 7, 2, 1, 8, 2]])
    mask = torch.ones_like(ids)
    assert ids[release_targets(ids, mask, TOKENS)].tolist() == [5, 6, 90, 7, 2, 8, 2]
    assert ids[release_targets(ids, mask, TOKENS, only_after_image=torch.tensor([True]))].tolist() == [90, 7, 2]


def test_a_batch_without_targets_is_nan_as_released_and_guarded_otherwise(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[STORY]])
    batch = replace(batch, targets_mask=torch.zeros_like(batch.targets_mask))
    guarded = build_model(config, seed=0)
    released = build_model(replace(config, text_loss_mean="release"), seed=0)
    output = guarded(batch)
    output.loss.backward()
    assert output.text_loss == 0
    assert all(torch.isfinite(each.grad).all() for each in guarded.parameters() if each.grad is not None)
    assert torch.isnan(released(batch).text_loss)
    ordinary = make_batch([[STORY]])
    assert torch.equal(guarded(ordinary).loss, released(ordinary).loss)


@pytest.mark.parametrize("name", ["official_tiny", "ablation_3b", "release_13b"])
def test_release_behaviour_bears_its_name(name: str) -> None:
    released = preset(name, vocab_size=32000)
    assert (released.attention, released.image_loss_mean, released.text_loss_mean) == ("release",) * 3
    paper = preset("paper_13b", vocab_size=32000)
    assert (paper.attention, paper.image_loss_mean, paper.text_loss_mean) == ("document", "trained", "guarded")


@pytest.mark.parametrize(("text", "image"), [(1.0, 100.0), (1.0, 1.0), (1.0, 0.0), (0.0, 10.0)])
def test_lambda_is_a_value_and_each_loss_may_stand_alone(config: ModelConfig, make_batch: MakeBatch, text: float, image: float) -> None:
    """Table 7 of the paper."""
    model = build_model(replace(config, text_loss_weight=text, image_loss_weight=image), seed=0)
    output = model(make_batch([[STORY]]))
    assert_close(output.loss, text * output.text_loss + image * output.image_loss, "model")
    output.loss.backward()
    for weight, tensor in ((text, model.text_decoder.head.weight), (image, model.image_decoder.decoder.unet.conv_in.weight)):
        assert (tensor.grad is not None and bool(tensor.grad.any())) == bool(weight)


@pytest.mark.parametrize("attention", ["document", "release"])
def test_documents_of_a_row_do_not_see_each_other_unless_as_released(
    config: ModelConfig, make_batch: MakeBatch, attention: Literal["document", "release"]
) -> None:
    """Bit by bit: another text or other pictures in the first document change no score and no picture's loss in the second."""
    loud = replace(config.image_decoder, quiet_start=False)  # so that what is read changes what is drawn
    model = build_model(replace(config, attention=attention, image_decoder=loud), seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("ignore_token", "mmfs_down_blocks.0.mmfs.output_proj.bias")):
                parameter.normal_()
    second = [3, "image", 4, "image", 11]
    one, other_text = make_batch([[STORY, second]]), make_batch([[[*STORY[:-1], 10], second]])
    pictures = one.images.clone()
    pictures[:2] = 1 - pictures[:2]
    batches = [one, other_text, replace(one, images=pictures, target_images=pictures)]
    seen = []
    for batch in batches:
        learned = replace(batch, image_loss_mask=torch.tensor([False, False, True, True]))
        layout = plan(learned, model.config)
        assert layout.decoded.tolist() == [2, 3]
        with torch.no_grad():
            features = model.visual_tokenizer(batch.images)
            hidden = model.hidden_states(batch.text_ids, features, layout)
            logits = model.text_decoder(hidden[batch.document_ids == 2])
            seen.append((logits, model.image_losses(learned, features, hidden, layout)[0].sum()))
    for logits, loss in seen[1:]:
        assert torch.equal(logits, seen[0][0]) == (attention == "document")
        assert torch.equal(loss, seen[0][1]) == (attention == "document")
