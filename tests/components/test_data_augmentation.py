"""Augmentation: one view of a document's pictures, in which every pair, box and word stays true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpus import make_corpus

from components.data import templates
from components.data.augmentation import SMALLEST_CROP, WHOLE, View, augment, smallest_px
from components.data.boxes import THOUSAND, box_to_text, grid_of, text_to_box
from components.data.documents import Document, ImageItem, LoadedDocument
from components.data.index import Index
from components.data.layout import encode
from components.data.stream import TrainStream
from components.data.tokenizer import Tokenizer, fit
from components.data.transforms import square
from components.params import Augmentation, TrainParams
from model.presets import preset

EPOCHS = range(40)


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A dark picture with a light box."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    return picture


def document(kind: str, items: templates.Items, prompt_items: int, fields: dict[str, Any] | None = None) -> Document:
    values = {"id": "one", "source": "s", "kind": kind, "split": "train", "licence": "l", "origin": "human"}
    return Document.model_validate(values | {"items": items, "prompt_items": prompt_items, "fields": fields or {}})


def images(count: int) -> list[ImageItem]:
    return [ImageItem(id=str(number), path=f"{number}.png") for number in range(count)]


def referring(box: tuple[int, int, int, int], width: int = 96, height: int = 64, phrase: str = "the light one") -> LoadedDocument:
    made = templates.grounding(images(1)[0], phrase, box, width, height)
    fields = {"phrase": phrase, "box": [float(value) for value in box]}
    return LoadedDocument(document("referring", *made, fields), (marked(width, height, box),), ((width, height),))


def light(picture: np.ndarray) -> tuple[int, int, int, int]:
    """The light box of a picture."""
    rows, columns = np.nonzero(picture[..., 0] > 127)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def views(loaded: LoadedDocument, augmentation: Augmentation) -> list[tuple[LoadedDocument, View]]:
    return [augment(loaded, augmentation, 0, epoch) for epoch in EPOCHS]


@pytest.mark.parametrize("augmentation", ["resize", "center_crop", "random_crop", "flip"])
@pytest.mark.parametrize("box", [(30, 20, 60, 40), (44, 10, 70, 50), (3, 2, 20, 62)])
def test_a_box_follows_its_picture_in_pixels_and_in_words(augmentation: Augmentation, box: tuple[int, int, int, int]) -> None:
    loaded = referring(box)
    for seen, view in views(loaded, augmentation)[:12]:
        left, top, right, bottom = view.pixels(96, 64)
        width, height = right - left, bottom - top
        shown = square(loaded.pictures[0], 576, view)
        found = np.array(light(shown)) / 576 * (width, height, width, height)
        assert np.abs(found - seen.document.fields["box"]).max() < 0.5
        answer = seen.document.texts[-1]
        assert answer == box_to_text(seen.document.fields["box"], width, height, THOUSAND)
        assert grid_of(answer) == THOUSAND
        told = text_to_box(answer, width, height, THOUSAND)
        assert told is not None
        assert np.abs(found - told).max() < 0.6


def test_a_crop_that_would_cut_a_box_is_not_taken() -> None:
    at_the_edge = referring((0, 0, 12, 12))
    assert [view for _, view in views(at_the_edge, "center_crop")] == [WHOLE] * len(EPOCHS)
    for seen, view in views(at_the_edge, "random_crop"):
        assert view == WHOLE or view.keeps((0, 0, 12, 12), 96, 64)
        assert min(seen.document.fields["box"]) >= 0
    inside = [view for _, view in views(referring((45, 30, 50, 34)), "random_crop")]
    assert sum(view != WHOLE for view in inside) > len(EPOCHS) // 2


@pytest.mark.parametrize("augmentation", ["center_crop", "random_crop", "flip"])
def test_a_class_map_and_its_picture_stay_aligned_in_encoder_and_decoder(augmentation: Augmentation) -> None:
    picture = marked(90, 60, (20, 10, 50, 44))
    loaded = LoadedDocument(document("segmentation", *templates.segmentation(images(2)[0], "a street", images(2)[1])), (picture, picture))
    different = set()
    for _, view in views(loaded, augmentation):
        small = [square(each, 32, view) for each in loaded.pictures]
        large = [square(each, 64, view) for each in loaded.pictures]
        assert np.array_equal(*small)
        assert np.array_equal(*large)
        halved = large[0].reshape(32, 2, 32, 2, 3).mean((1, 3))
        assert np.abs(halved - small[0]).mean() < 8  # the same crop: any shift by a pixel would differ by more along the box
        different.add(small[0].tobytes())
    assert len(different) == {"center_crop": 1, "flip": 2}.get(augmentation, len(different))
    assert augmentation != "random_crop" or len(different) > 30


def test_every_other_document_is_mirrored_and_no_epoch_like_the_last() -> None:
    picture = marked(64, 64, (0, 0, 20, 64))
    loaded = LoadedDocument(document("segmentation", *templates.text_to_image("a thing", images(1)[0])), (picture,))
    mirrored = [view.mirrored for _, view in views(loaded, "flip")]
    assert 10 < sum(mirrored) < 30
    assert mirrored == [view.mirrored for _, view in views(loaded, "flip")]
    for _, view in views(loaded, "flip"):
        assert np.array_equal(square(picture, 64, view), picture[:, ::-1] if view.mirrored else picture)


@pytest.mark.parametrize(
    "text", ["a cat on the left", "The RIGHT one", "a left-hand drive", "northwest a red 3.", "it walks counterclockwise", "a mirror image"]
)
def test_a_document_that_names_a_side_is_not_mirrored(text: str) -> None:
    for loaded in (referring((30, 20, 60, 40), phrase=text), referring((30, 20, 60, 40), phrase=f"x {text} y")):
        assert not any(view.mirrored for _, view in views(loaded, "flip"))
    assert any(view.mirrored for _, view in views(referring((30, 20, 60, 40), phrase="a bright copyright theft"), "flip"))


@given(st.integers(1, 400), st.integers(1, 400), st.floats(SMALLEST_CROP, 1), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_view_stays_inside_and_boxes_inside_of_it(width: int, height: int, side: float, x: float, y: float, mirrored: bool) -> None:
    view = View(side, (x, y), mirrored)
    left, top, right, bottom = view.pixels(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert right - left == bottom - top
    assert view.keeps((left, top, right, bottom), width, height)
    assert view.move((left, top, right, bottom), width, height) == (0, 0, right - left, bottom - top)
    assert square(np.zeros((height, width, 3), np.uint8), 8, view).shape == (8, 8, 3)


def test_reduced_pictures_are_large_enough_for_every_crop() -> None:
    assert smallest_px("resize", 224) == 224
    assert View(SMALLEST_CROP).pixels(*[smallest_px("random_crop", 224)] * 2)[2] >= 224


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("augmented")
    make_corpus(root, documents=8)
    return root


def test_training_sees_augmented_documents_the_same_for_any_ranks(corpus: Path) -> None:
    shape = preset("smoke", vocab_size=Index(corpus / "index").tokenizer.vocab_size).shape
    values: dict[str, Any] = {
        "steps": 9,
        "rows_per_step": 4,
        "row_tokens": 256,
        "mixture": {"segmentation": 1, "referring": 1},
        "learning_rate": 1e-3,
    }
    made = {}
    for augmentation in ("resize", "random_crop", "flip"):
        stream = TrainStream(corpus / "index", corpus / "shards", TrainParams(**values, augmentation=augmentation), shape, 0)
        made[augmentation] = [stream.batch(step) for step in range(4)]
        parts = [stream.batch(2, rank, 2).images.sum().item() for rank in range(2)]
        assert sum(parts) == pytest.approx(made[augmentation][2].images.sum().item(), rel=1e-5)
    assert all(bool((a.text_ids == b.text_ids).all()) for a, b in zip(made["resize"], made["resize"], strict=True))
    assert any(not bool((a.images == b.images).all()) for a, b in zip(made["resize"], made["random_crop"], strict=True))
    pairs = list(zip(made["resize"], made["flip"], strict=True))
    assert any(bool((a.text_ids != b.text_ids).any()) for a, b in pairs)  # the boxes in the texts moved with their pictures
    assert all(bool((a.attention_mask == b.attention_mask).all()) for a, b in pairs)


def test_encoder_and_target_show_the_same_part() -> None:
    shape = preset("official_tiny", vocab_size=400).shape
    loaded = referring((44, 10, 70, 50))
    tokenizer = Tokenizer(fit(["a b c"] * 5, 300))
    view = View(0.9, (0.7, 0.2), mirrored=True)
    encoded = encode(loaded, tokenizer, shape, view)
    assert np.array_equal(encoded.encoder[0], square(loaded.pictures[0], shape.image_px, view))
    assert np.array_equal(encoded.target[0], square(loaded.pictures[0], shape.output_px, view))
