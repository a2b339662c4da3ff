"""Documents: what is accepted, what is refused and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.boxes import box_to_text, text_to_box
from components.data.documents import DocumentError, parse_document

GOOD: dict[str, Any] = {
    "id": "a-1",
    "source": "mine",
    "kind": "caption",
    "split": "train",
    "licence": "CC0-1.0",
    "origin": "human",
    "items": [{"type": "image", "id": "0", "path": "a/b.png"}, {"type": "text", "text": "a cat ."}],
    "prompt_items": 1,
    "fields": {"references": ["a cat ."]},
}


def refused(**changes: Any) -> str:
    with pytest.raises(DocumentError) as error:
        parse_document(json.dumps({key: value for key, value in (GOOD | changes).items() if value is not None}))
    return str(error.value)


def test_a_document_survives_its_json() -> None:
    document = parse_document(json.dumps(GOOD))
    assert parse_document(document.model_dump_json()) == document
    assert [image.path for image in document.images] == ["a/b.png"]
    assert document.texts == ("a cat .",)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../b.png", "a\\b.png", "", "a\0.png"])
def test_an_image_path_cannot_leave_the_folder(path: str) -> None:
    assert "must be relative" in refused(items=[{"type": "image", "id": "0", "path": path}])


def test_each_wrong_line_says_what_is_wrong() -> None:
    assert "licence" in refused(licence=None)
    assert "extra" in refused(extra=1).lower()
    assert "references" in refused(fields={})
    assert "prompt_items" in refused(prompt_items=3)
    assert "id" in refused(id="a/b")
    assert "same id" in refused(items=[GOOD["items"][0], GOOD["items"][0]])
    assert "fields.box" in refused(kind="referring", fields={"phrase": "it", "box": [5, 0, 5, 9]})
    assert "items" in refused(items=[])


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "null", "[" * 100_000, '{"id": NaN}', json.dumps(GOOD)[:-1], json.dumps(GOOD | {"fields": {"x": float("inf")}}),
        json.dumps(GOOD)[:-1] + ', "licence": "another"}',
    ],
)  # fmt: skip
def test_broken_json_nan_and_keys_that_stand_twice_are_refused(line: str) -> None:
    with pytest.raises(DocumentError):
        parse_document(line)


@given(st.text())
def test_no_line_raises_anything_else(line: str) -> None:
    with pytest.raises(DocumentError):
        parse_document(line)


@given(st.integers(8, 4000), st.integers(8, 4000), st.data())
def test_a_box_survives_its_text_to_half_a_hundredth(width: int, height: int, data: st.DataObject) -> None:
    x0, y0 = data.draw(st.floats(0, width * 0.9)), data.draw(st.floats(0, height * 0.9))
    x1, y1 = data.draw(st.floats(x0 + 0.05 * width, width)), data.draw(st.floats(y0 + 0.05 * height, height))
    found = text_to_box(f"it is at {box_to_text((x0, y0, x1, y1), width, height)} .", width, height)
    assert found is not None
    for value, again, side in zip((x0, y0, x1, y1), found, (width, height, width, height), strict=True):
        assert abs(value - again) <= 0.0101 * side


@pytest.mark.parametrize("text", ["", "(1,2)", "(50,50)(40,60)", "(1,2)(x,4)"])
def test_what_is_no_box_is_none(text: str) -> None:
    assert text_to_box(text, 32, 32) is None
