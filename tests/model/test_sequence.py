"""Index arithmetic against brute force over random packings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_rows import VOCABULARY, MakeBatch, pack

from model.batch import InputError
from model.config import ModelConfig
from model.presets import preset
from model.sequence import pairs_from_mask, plan

ITEMS = st.lists(st.one_of(st.integers(3, VOCABULARY - 1), st.just("image")), max_size=6)
ROWS = st.lists(st.lists(ITEMS, max_size=3), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, nearest=st.booleans())
def test_layout_equals_brute_force(rows: list[list[list[int | str]]], nearest: bool) -> None:
    config = preset("smoke", vocab_size=VOCABULARY, visible_images="nearest" if nearest else "all")
    batch = pack(config, rows, columns=120, seed=0)
    if not len(batch.images):
        batch = batch.with_blank_image(config.shape)
        assert len(plan(batch, config).pairs.query) == 0
        return
    layout = plan(batch, config)
    columns = batch.text_ids.shape[1]
    expected = []
    for row in range(len(rows)):
        for column in range(columns):
            document = batch.document_ids[row, column].item()
            seen = [
                image
                for image, (its_row, its_column) in enumerate(zip(batch.image_row.tolist(), batch.image_column.tolist(), strict=True))
                if document and its_row == row and its_column < column and batch.document_ids[row, its_column].item() == document
            ]
            chosen = seen[-1:] if nearest else seen
            expected += [(row * columns + column, image, len(chosen) - place) for place, image in enumerate(chosen)]
    pairs = layout.pairs
    assert list(zip(pairs.query.tolist(), pairs.image.tolist(), pairs.distance.tolist(), strict=True)) == expected


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, every=st.booleans())
def test_the_decoder_sees_earlier_images_of_the_document(rows: list[list[list[int | str]]], every: bool) -> None:
    config = preset("smoke", vocab_size=VOCABULARY, decoder_images="all" if every else "previous", min_context_tokens=0)
    batch = pack(config, rows, columns=120, seed=0)
    if not len(batch.images):
        return
    layout = plan(batch, config)
    assert layout.decoded.tolist() == list(range(len(batch.images)))
    owner = [(row, batch.document_ids[row, column].item()) for row, column in zip(batch.image_row, batch.image_column, strict=True)]
    expected = []
    for image in range(len(owner)):
        seen = [other for other in range(image) if owner[other] == owner[image]]
        expected += [(image, other, image - other) for other in (seen if every else seen[-1:])]
    pairs = layout.references
    images = layout.looked_at[pairs.image].tolist()
    assert list(zip(pairs.query.tolist(), images, pairs.distance.tolist(), strict=True)) == expected


def test_context_runs_from_boi_back_to_the_start(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, 6, "image", 7, "image"], [8, "image"]]])
    layout = plan(batch, config)
    shown = [batch.text_ids.flatten()[row[mask]].tolist() for row, mask in zip(layout.context, layout.context_mask, strict=True)]
    boi, image, bos = config.tokens.boi, config.tokens.image, config.tokens.bos
    placeholders = [image] * config.visual_resampler.queries
    assert shown == [[boi, 6, 5, bos], [boi, 7, *placeholders, boi, 6, 5, bos], [boi, 8, bos]]
    assert layout.references.query.tolist() == [1]
    assert layout.looked_at.tolist() == [0]


def test_predictions_are_made_one_token_earlier(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, 6]], [[7]]], columns=6).with_blank_image(config.shape)
    layout = plan(batch, config)
    assert layout.target.tolist() == [5, 6, config.tokens.eos, 7, config.tokens.eos]
    assert layout.predict.tolist() == [0, 1, 2, 6, 7]


def test_an_image_without_context_is_not_decoded(config: ModelConfig, make_batch: MakeBatch) -> None:
    layout = plan(make_batch([[["image", 5], [6, "image"]]]), config)
    assert layout.decoded.tolist() == [1]
    assert layout.decode_weight.tolist() == [1.0]


def test_a_batch_without_trained_images_decodes_one_at_no_weight(config: ModelConfig, make_batch: MakeBatch) -> None:
    layout = plan(make_batch([[["image", 5]]]), config)
    assert layout.decoded.tolist() == [0]
    assert layout.decode_weight.tolist() == [0.0]


def test_documents_do_not_attend_to_each_other_unless_released(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, 6], [7]]], columns=9).with_blank_image(config.shape)
    allowed = plan(batch, config).attention[0, 0]
    assert not allowed[4:7, :4].any()
    assert allowed[6, 4:7].all()
    assert plan(batch, replace(config, attention="release")).attention[0, 0].equal(torch.ones(9, 9, dtype=torch.bool).tril())


def test_placeholders_that_disagree_with_images_are_refused(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, "image"]]])
    ids = batch.text_ids.clone()
    ids[ids == config.tokens.image] = 7
    with pytest.raises(ValueError, match="0 image placeholders"):
        plan(replace(batch, text_ids=ids), config)


def test_a_bare_boi_at_the_end_of_a_row_takes_no_other_pictures_placeholders(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, 6, 7, 8, 9, 10, 11, 12]], [[5, 6, "image", 7]]], columns=10)
    pictures = make_batch([[["image", "image"]]])
    ids = batch.text_ids.clone()
    ids[0, -1] = config.tokens.boi
    cut = replace(
        pictures, text_ids=ids, document_ids=batch.document_ids, attention_mask=batch.attention_mask, targets_mask=batch.targets_mask
    )
    with pytest.raises(InputError, match="hold 4 image placeholders, but 2 images of 4 visual tokens need 8"):
        plan(replace(cut, image_row=torch.tensor([0, 1]), image_column=torch.tensor([9, 3])), config)


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ([(0, 2), (1, 1)], r"picture 0 \(row 0, column 2\) has no BoI there"),
        ([(1, 1), (0, 3)], r"picture 1 \(row 0, column 3\) does not come after the picture before it"),
        ([(0, 3), (0, 3)], "picture 1 .* does not come after"),
        ([(0, 3), (2, 1)], r"picture 1 \(row 2, column 1\) lies outside the 2 rows of 12 tokens"),
        ([(0, 3), (1, -11)], "picture 1 .* lies outside"),
    ],
)
def test_a_picture_at_another_place_than_its_boi(
    config: ModelConfig, make_batch: MakeBatch, places: list[tuple[int, int]], told: str
) -> None:
    batch = make_batch([[[5, 6, "image", 7]], [["image", 8]]], columns=12)
    assert plan(batch, config).image_token.view(2, 12)[1, 2:6].tolist() == [4, 5, 6, 7]
    row, column = torch.tensor(places).unbind(1)
    with pytest.raises(InputError, match=told):
        plan(replace(batch, image_row=row, image_column=column), config)


def test_placeholders_stand_right_behind_the_boi(config: ModelConfig, make_batch: MakeBatch) -> None:
    batch = make_batch([[[5, "image", 7]]], columns=12)
    ids = batch.text_ids.clone()
    ids[0, [3, 7]] = ids[0, [7, 3]]
    with pytest.raises(InputError, match="has no 4 placeholders right behind its BoI"):
        plan(replace(batch, text_ids=ids), config)


def test_pairs_of_a_mask_count_distance_from_the_newest() -> None:
    pairs = pairs_from_mask(torch.tensor([[[1, 1, 0], [0, 1, 1]]]))
    assert pairs.query.tolist() == [0, 0, 1, 1]
    assert pairs.image.tolist() == [0, 1, 1, 2]
    assert pairs.distance.tolist() == [2, 1, 2, 1]
