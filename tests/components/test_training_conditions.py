"""Condition modes, token weights and denominators: from documents to the gradients of a real, small model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from index_world import tokenizer_json

from components.data.collate import Collator, Sample
from components.data.conditions import mode_of
from components.data.layout import Encoded, Piece
from components.data.token_weights import token_weights
from components.data.tokenizer import Tokenizer
from components.objective_params import ConditionParams, ObjectiveParams
from components.training.objective import MicroBatch, Objective, Targets
from model.batch import InterleavedBatch
from model.build import build_model
from model.mm_interleaved import MMInterleaved
from model.presets import preset
from model.sequence import plan

TOKENIZER = Tokenizer(tokenizer_json())
CONFIG = preset("smoke", vocab_size=TOKENIZER.vocab_size)
SHAPE = CONFIG.shape
TOKENS = 64
EVEN = ObjectiveParams()


@pytest.fixture(scope="module")
def model() -> MMInterleaved:
    network = build_model(CONFIG, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # gates and offsets start at 0, with which nothing would look at any picture
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def story(name: str, words: tuple[int, ...] = (3, 5, 4), pictures: int = 2) -> Encoded:
    """A text before each of two pictures and one after them, of so many tokens."""
    draw = np.random.default_rng(sum(name.encode()))
    shown = draw.integers(0, 256, (pictures, SHAPE.image_px, SHAPE.image_px, 3), np.uint8)
    pieces: list[Piece] = []
    for number, count in enumerate(words):
        pieces.append(Piece(True, ids=tuple(draw.integers(5, 200, count).tolist())))
        if number < pictures:
            pieces.append(Piece(True, image=number))
    return Encoded(name, "story", tuple(pieces), shown, shown)


def collate(objective: ObjectiveParams, *rows: list[Encoded], condition_drop: float = 0.1, epoch: int = 0) -> InterleavedBatch:
    collator = Collator(TOKENIZER, SHAPE, TOKENS, condition_drop, 0, objective)
    return collator.batch([[Sample(one, epoch) for one in row] for row in rows])


def only(mode: str) -> ObjectiveParams:
    """A mode that all but never is another."""
    return ObjectiveParams(conditions=ConditionParams(**{mode: 1 - 1e-9}))


def image_loss(model: MMInterleaved, batch: InterleavedBatch) -> float:
    with torch.no_grad():
        return float(model(batch, plan(batch, CONFIG)).image_loss)


def test_modes_belong_to_document_and_epoch_and_have_their_shares() -> None:
    params = ConditionParams(drop_text=0.2, drop_both=0.1)
    drawn = {(number, epoch): mode_of(params, 0, epoch, f"d{number}") for number in range(1000) for epoch in range(2)}
    shares = {mode: count / len(drawn) for mode, count in Counter(drawn.values()).items()}
    assert shares == pytest.approx({"keep": 0.7, "drop_text": 0.2, "drop_both": 0.1}, abs=0.03)
    assert any(drawn[number, 0] != drawn[number, 1] for number in range(1000))
    assert drawn[7, 1] == mode_of(params, 0, 1, "d7")
    with pytest.raises(ValueError, match="below 1"):
        ConditionParams(drop_text=0.5, drop_both=0.5)


def test_without_modes_the_batch_is_that_of_the_release() -> None:
    batch = collate(EVEN, [story("a")], condition_drop=0.5)
    assert batch.unread is batch.drop_images is batch.target_weight is None
    drawn = {bool(drop) for epoch in range(20) for drop in collate(EVEN, [story("a")], condition_drop=0.5, epoch=epoch).drop_condition}
    assert drawn == {True, False}


@pytest.mark.parametrize("mode", ["keep", "drop_text", "drop_both"])
def test_what_is_dropped_has_no_text_loss_and_keeps_its_pictures(mode: str) -> None:
    batch = collate(only(mode) if mode != "keep" else EVEN, [story("a"), story("b")], condition_drop=0.0)
    plain = collate(EVEN, [story("a"), story("b")], condition_drop=0.0)
    assert torch.equal(batch.text_ids, plain.text_ids)
    assert torch.equal(batch.image_loss_mask, plain.image_loss_mask)
    assert torch.equal(batch.noise, plain.noise)
    assert torch.equal(batch.timesteps_u, plain.timesteps_u)
    if mode == "keep":
        assert torch.equal(batch.targets_mask, plain.targets_mask)
        return
    assert not batch.targets_mask.any()
    assert batch.unread is not None and batch.drop_images is not None
    words = ~torch.isin(batch.text_ids, torch.tensor([TOKENIZER.pad, TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.boi, TOKENIZER.image]))
    assert torch.equal(batch.unread, words)
    both = mode == "drop_both"
    assert batch.drop_condition.tolist() == batch.drop_images.tolist() == [both] * 4
    assert len(plan(batch, CONFIG).references.query) == (0 if both else 2)


def test_each_document_of_a_row_has_a_mode_of_its_own() -> None:
    objective = ObjectiveParams(conditions=ConditionParams(drop_text=0.3, drop_both=0.3))
    of_mode = {mode_of(objective.conditions, 0, 0, f"d{number}"): f"d{number}" for number in range(20)}
    batch = collate(objective, [story(name, (2, 2), 1) for name in of_mode.values()])
    assert len(of_mode) == 3
    assert batch.drop_images is not None
    for number, mode in enumerate(of_mode):
        own = batch.document_ids[0] == number + 1
        assert bool(batch.targets_mask[0][own].any()) == (mode == "keep")
        assert bool(batch.drop_images[number]) == bool(batch.drop_condition[number]) == (mode == "drop_both")


@pytest.mark.parametrize(("mode", "reads", "looks"), [("keep", True, True), ("drop_text", False, True), ("drop_both", False, False)])
def test_a_picture_is_made_from_what_its_mode_keeps(model: MMInterleaved, mode: str, reads: bool, looks: bool) -> None:
    objective = EVEN if mode == "keep" else only(mode)
    batch = collate(objective, [story("a")], condition_drop=0.0)
    batch = replace(batch, image_loss_mask=torch.tensor([False, True]))
    other_words = batch.text_ids.clone()
    text = (other_words > 4) & (other_words < 250)
    other_words[text] = other_words[text] % 200 + 6
    turned = torch.stack([batch.images[0].flip(-1), batch.images[1]])
    before = image_loss(model, batch)
    assert (image_loss(model, replace(batch, text_ids=other_words)) != before) == reads
    assert (image_loss(model, replace(batch, images=turned)) != before) == looks


def test_a_model_trains_on_rows_of_which_everything_is_dropped(model: MMInterleaved) -> None:
    loss, gradients = step(model, collate(only("drop_both"), [story("a")], [story("b")]))
    assert np.isfinite(loss)
    assert float(gradients["image_decoder.neg_prompt_embeds"].abs().sum()) > 0
    assert not any(value.any() for name, value in gradients.items() if name.startswith("text_decoder"))


def step(model: MMInterleaved, batch: InterleavedBatch) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of the objective on one rank, and gradients by name (zeros where there is none)."""
    layout = plan(batch, CONFIG)
    weight = layout.target_weight
    text = len(layout.target) if weight is None else float(weight.double().sum())
    images = int(layout.decode_weight.sum())
    own = Targets(text, images, int(batch.attention_mask.sum()), len(batch.images))
    objective = Objective(1.0, 10.0, lambda sums: sums, copies=1)
    model.zero_grad()
    loss, _ = objective(model, MicroBatch((batch, layout), own, text, images))
    loss.backward()
    return float(loss.detach()), {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def part(gradients: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    found = {name: value for name, value in gradients.items() if name.startswith(prefix)}
    assert any(value.any() for value in found.values())
    return found


@pytest.mark.parametrize("objective", [EVEN, ObjectiveParams(token_weights="square_root", control_weight=2.0)], ids=["even", "weighted"])
def test_more_text_does_not_change_the_gradient_of_the_pictures(model: MMInterleaved, objective: ObjectiveParams) -> None:
    _, short = step(model, collate(objective, [story("a")], [story("t", (4,), 0)]))
    _, long = step(model, collate(objective, [story("a", (3, 5, 30))], [story("t", (50,), 0)]))
    for name, value in part(short, "image_decoder.").items():
        assert torch.equal(value, long[name]), name
    assert any(not torch.equal(value, long[name]) for name, value in part(short, "text_decoder.").items())


def test_more_pictures_do_not_change_the_gradient_of_the_text(model: MMInterleaved) -> None:
    batch = collate(EVEN, [story("a")], [story("b")])
    _, all_pictures = step(model, batch)
    _, one_picture = step(model, replace(batch, image_loss_mask=torch.tensor([True, False, False, False])))
    for name, value in part(one_picture, "text_decoder.").items():
        assert torch.equal(value, all_pictures[name]), name
    assert any(not torch.equal(value, all_pictures[name]) for name, value in part(one_picture, "image_decoder.").items())


def test_a_text_of_n_trained_tokens_counts_for_the_root_of_n() -> None:
    objective = ObjectiveParams(token_weights="square_root", control_weight=3.0)
    control = (0, 1, 2, 3, 4)
    ids = np.array([[1, 9, 9, 9, 9, 3, 4, 4, 9, 9, 2, 0], [9, 1, 9, 9, 9, 9, 2, 1, 9, 9, 9, 9]])
    trained = np.array([[0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0], [1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1]], bool)
    weights = token_weights(ids, trained, control, objective)
    assert weights is not None
    root = 1 / np.sqrt(3)
    expected = [
        [0, 0.5, 0.5, 0.5, 0.5, 3, 0, 0, 1 / np.sqrt(2), 1 / np.sqrt(2), 3, 0],
        [1, 0, 0, root, root, root, 3, 0, 0.5, 0.5, 0.5, 0.5],
    ]
    assert (weights * trained) == pytest.approx(np.array(expected))
    assert token_weights(ids, trained, control, EVEN) is None
    plain = token_weights(ids, trained, control, ObjectiveParams(control_weight=2.0))
    assert plain is not None
    assert set(plain[trained & (ids == 9)]) == {1.0} and set(plain[trained & (ids < 5)]) == {2.0}


def test_weighted_text_losses_are_divided_by_the_sum_of_the_weights(model: MMInterleaved) -> None:
    weighted = collate(ObjectiveParams(token_weights="square_root", control_weight=2.0), [story("a")], [story("t", (20,), 0)])
    layout = plan(weighted, CONFIG)
    assert layout.target_weight is not None
    with torch.no_grad():
        alone = model(weighted, replace(layout, target_weight=None), image_weight=0.0).text_losses
        found = model(weighted, layout, image_weight=0.0)
    expected = (alone * layout.target_weight).sum() / layout.target_weight.sum()
    assert float(found.text_loss) == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(found.text_losses, alone)
