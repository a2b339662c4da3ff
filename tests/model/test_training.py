"""The whole model in training: it learns, only what should matter matters, and every parameter takes part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from packed_rows import MakeBatch, as_if_trained, largest

from kernels.testing import assert_close, relative_error
from model.build import build_model
from model.config import ModelConfig
from model.mm_interleaved import MMInterleaved
from model.sequence import plan

STORY = [5, 6, "image", 7, 8, "image", 9]


def test_it_overfits_one_batch(config: ModelConfig, make_batch: MakeBatch) -> None:
    model = build_model(config, seed=0).train()
    batch = make_batch([[STORY], [["image", 11], [12, 13, "image"]]], columns=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    losses = []
    for _ in range(40):
        output = model(batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append((output.text_loss.item(), output.image_loss.item()))
    assert losses[-1][0] < 0.2 * losses[0][0]
    assert losses[-1][1] < 0.5 * losses[0][1]


def test_weights_follow_from_the_seed_alone(config: ModelConfig) -> None:
    torch.manual_seed(1)
    first = build_model(config, seed=3).state_dict()
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    second = build_model(config, seed=3).state_dict()
    other = build_model(config, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_trained_parameter_gets_a_gradient_even_without_images(config: ModelConfig, make_batch: MakeBatch) -> None:
    model = build_model(config, seed=0).train()
    for batch in (make_batch([[STORY]]), make_batch([[[5, 6, 7]]]), make_batch([[["image", 5]]])):
        model.zero_grad(set_to_none=True)
        model(batch).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None] == []


def test_losses_of_packed_rows_are_sums_over_their_documents(network: MMInterleaved, make_batch: MakeBatch) -> None:
    apart = [make_batch([[document]], seed=number) for number, document in enumerate((STORY, [3, "image", 4]))]
    together = make_batch([[STORY, [3, "image", 4]]])
    keyed = {name: torch.cat([getattr(batch, name) for batch in apart]) for name in ("images", "target_images", "timesteps_u", "noise")}
    with torch.no_grad():
        one, two, both = network(apart[0]), network(apart[1]), network(replace(together, **keyed))
    assert_close(both.text_loss_sum, one.text_loss_sum + two.text_loss_sum, "model", "text")
    assert_close(both.image_loss_sum, one.image_loss_sum + two.image_loss_sum, "model", "image")
    assert both.image_count == one.image_count + two.image_count == 3


def test_a_picture_changes_only_what_follows_in_its_document(network: MMInterleaved, config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[STORY, [3, "image", 4]], [STORY]])
    layout = plan(batch, config)
    changed = batch.images.clone()
    changed[1] = 1 - changed[1]
    with torch.no_grad():
        before = network.hidden_states(batch.text_ids, network.visual_tokenizer(batch.images), layout)
        after = network.hidden_states(batch.text_ids, network.visual_tokenizer(changed), layout)
    difference = (before - after).abs().amax(-1)
    boi = batch.image_column[1]
    end = int((batch.document_ids[0] == 1).sum())
    assert largest(difference[0, : boi + 1]) < 1e-5
    assert difference[0, boi + 1 : end].min() > 1e-4
    assert largest(difference[0, end:]) < 1e-5
    assert largest(difference[1]) < 1e-5


def test_dropping_the_condition_hides_the_text_but_not_the_previous_image(network: MMInterleaved, make_batch: MakeBatch) -> None:
    batch = make_batch([[STORY]])
    batch = replace(batch, drop_condition=torch.ones(2, dtype=torch.bool), image_loss_mask=torch.tensor([False, True]))
    other_text = replace(batch, text_ids=torch.where(batch.text_ids == 8, 20, batch.text_ids))
    other_image = replace(batch, images=1 - batch.images)
    with torch.no_grad():
        loss, text, image = (network(each).image_loss.item() for each in (batch, other_text, other_image))
    assert abs(loss - text) < 1e-6
    assert abs(loss - image) > 1e-6


def test_image_weight_zero_leaves_the_decoder_out(config: ModelConfig, make_batch: MakeBatch) -> None:
    model = build_model(config, seed=0).train()
    output = model(make_batch([[STORY]]), image_weight=0.0)
    output.loss.backward()
    assert output.image_count == 0
    assert all(parameter.grad is None for parameter in model.image_decoder.parameters())


def test_cross_attention_can_be_left_out(config: ModelConfig, make_batch: MakeBatch) -> None:
    model = build_model(replace(config, cross_attention="off"), seed=0)
    assert not [name for name in model.state_dict() if "mmfs" in name or "llama_cross_attn" in name]
    assert torch.isfinite(model(make_batch([[STORY]])).loss)


def test_the_released_mean_counts_images_that_are_not_decoded(network: MMInterleaved, config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[["image", 5], [6, "image"]]])
    released = as_if_trained(build_model(replace(config, image_loss_mean="release"), seed=0)).eval()
    with torch.no_grad():
        ours, theirs = network(batch), released(batch)
    assert (ours.image_count.item(), theirs.image_count.item()) == (1.0, 2.0)
    assert_close(theirs.image_loss_sum, ours.image_loss_sum, "model")


def test_activations_computed_again_give_the_same_gradients(config: ModelConfig, make_batch: MakeBatch) -> None:
    kept, again = build_model(config, seed=0).train(), build_model(config, seed=0).train()
    again.checkpoint_activations()
    batch = make_batch([[STORY]])
    saved: list[int] = []
    for model in (kept, again):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):  # type: ignore[misc]
            loss = model(batch).loss
        saved.append(sum(sizes))
        loss.backward()
    assert saved[1] < saved[0] / 2
    for (name, one), other in zip(kept.named_parameters(), again.parameters(), strict=True):
        if one.grad is not None:
            assert other.grad is not None
            assert torch.equal(one.grad, other.grad), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_full_precision(config: ModelConfig, make_batch: MakeBatch, dtype: torch.dtype) -> None:
    full, half = build_model(config, seed=0).eval(), build_model(config, seed=0).eval().to(dtype)
    batch = make_batch([[STORY], [[5, 6, "image", 7]]])
    layout = plan(batch, config)
    logits = []
    with torch.no_grad():
        losses = [model(batch) for model in (full, half)]
        for model in (full, half):
            features = model.visual_tokenizer(batch.images)
            logits.append(model.text_decoder(model.hidden_states(batch.text_ids, features, layout)).float())
    real = batch.attention_mask
    assert relative_error(logits[1][real], logits[0][real]) < 2e-2
    for name in ("text_loss", "image_loss"):
        assert relative_error(getattr(losses[1], name), getattr(losses[0], name)) < 2e-2
