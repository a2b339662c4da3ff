"""The paper's prompts: literally Table 17 and appendix B.2, with what is trained and what is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data import templates
from components.data.boxes import HUNDREDTHS, THOUSAND, Grid, box_to_text, grid_of, move_boxes, text_to_box
from components.data.documents import ImageItem, TextItem

PICTURE = ImageItem(id="0", path="a.png")
OTHER = ImageItem(id="1", path="b.png")


def written(items: templates.Items) -> str:
    """Items as the tables print them."""
    return " ".join(item.text if isinstance(item, TextItem) else "{image}" for item in items)


def trained(items: templates.Items) -> list[str]:
    return [item.text if isinstance(item, TextItem) else item.id for item in items if item.loss]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (templates.caption(PICTURE, "a cat", length="short", finetuned=False), "{image} a photo of a cat"),
        (
            templates.caption(PICTURE, "a cat", length="long", finetuned=False),
            "{image} Please describe the image in detail. The image depicts a cat",
        ),
        (
            templates.caption(PICTURE, "a cat", length="short", finetuned=True),
            "{image} Provide a one-sentence caption for the provided image. a cat",
        ),
        (templates.caption(PICTURE, "a cat", length="long", finetuned=True), "{image} Please describe the image in detail. a cat"),
        (
            templates.vqa(PICTURE, "what is it?", "a cat", split="train"),
            "Based on the image, please answer the question. {image} what is it?. The answer is: a cat",
        ),
        (
            templates.vqa(PICTURE, "what is it?", "a cat", split="evaluation"),
            "Based on the image, please answer the question. {image} what is it? "
            "Please provide an accurate answer within one word. The answer is: a cat",
        ),
        (
            templates.vizwiz(PICTURE, "what is it?", "a cat"),
            "Based on the image, please answer the question. {image} what is it? When the provided information is insufficient, "
            "respond with 'Unanswerable'. Please provide an accurate answer within one word. The answer is: a cat",
        ),
        (
            templates.visual_dialog(PICTURE, "a cat.", [("is it red?", "no."), ("is it small", "yes")], "is it old?", "a cat"),
            "{image} caption: a cat. question: is it red? answer: no. question: is it small? answer: yes. question: is it old? "
            "answer: a cat",
        ),
        (
            templates.visual_dialog(PICTURE, "one", [], "is it old", "a cat", wording="release"),
            "{image} caption: one. question: is it old? answer: a cat",
        ),
        (
            templates.grounding(PICTURE, "the cat", (59.56, 9.0, 85.6, 99.9), 100, 100),
            "{image} Question: Provide the bounding box coordinate of the region this sentence describes: the cat, Answer: "
            "(595,090)(855,998)",
        ),
        (
            templates.grounding(PICTURE, "the cat", (0, 0, 100, 50), 100, 100, wording="release"),
            "{image} Provide the bounding box coordinate of the region this sentence describes. the cat<box> (000,000)(999,500)</box>",
        ),
    ],
)
def test_a_prompt_is_the_papers_and_only_the_answer_is_trained(made: tuple[templates.Items, int], text: str) -> None:
    items, prompt_items = made
    assert written(items) == text
    assert prompt_items == len(items) - 1
    assert trained(items) == [items[-1].text]  # type: ignore[union-attr]


def test_a_hidden_answer_leaves_the_prompt_alone() -> None:
    known, prompt_items = templates.vqa(PICTURE, "what is it?", "a cat", split="evaluation")
    hidden = templates.vqa(PICTURE, "what is it?", None, split="evaluation")
    assert hidden == (known[:prompt_items], prompt_items)
    assert templates.grounding(PICTURE, "the cat", None, 10, 10)[1] == 2


def test_a_conversation_trains_every_answer() -> None:
    items, prompt_items = templates.conversation([PICTURE, OTHER], [("one?", "1"), ("two?", "2")])
    assert written(items) == (
        "Based on the image, please answer the question. {image} {image} one?. The answer is: 1 two?. The answer is: 2"
    )
    assert trained(items) == ["1", "2"]
    assert written(items[prompt_items : prompt_items + 1]) == "1"
    with pytest.raises(ValueError, match="needs a question"):
        templates.conversation([PICTURE], [])


def test_pictures_to_generate_are_trained_and_class_maps_are_not() -> None:
    items, prompt_items = templates.segmentation(PICTURE, "a street", OTHER)
    assert written(items) == "{image} a street {image}"
    assert (trained(items), prompt_items) == (["1"], 2)
    items, prompt_items = templates.text_to_image("a cat", PICTURE)
    assert (written(items), trained(items), prompt_items) == ("a cat {image}", ["0"], 1)


@pytest.mark.parametrize(("given_pictures", "first_asked"), [(0, 1), (1, 3), (4, 9)])
def test_a_story_is_asked_from_its_first_picture_not_given(given_pictures: int, first_asked: int) -> None:
    turns = [(f"turn {number}", ImageItem(id=str(number), path=f"{number}.png", loss=False)) for number in range(5)]
    items, prompt_items = templates.story(turns, given_pictures=given_pictures)
    assert trained(items) == ["0", "1", "2", "3", "4"]
    assert prompt_items == first_asked
    assert isinstance(items[prompt_items], ImageItem)
    with pytest.raises(ValueError, match="left to generate"):
        templates.story(turns, given_pictures=5)


@given(st.sampled_from([HUNDREDTHS, THOUSAND]), st.integers(8, 4000), st.integers(8, 4000), st.data())
def test_a_box_survives_its_text_to_a_grid_step(grid: Grid, width: int, height: int, data: st.DataObject) -> None:
    x0, y0 = data.draw(st.floats(0, width * 0.9)), data.draw(st.floats(0, height * 0.9))
    x1, y1 = data.draw(st.floats(x0 + 0.05 * width, width)), data.draw(st.floats(y0 + 0.05 * height, height))
    text = box_to_text((x0, y0, x1, y1), width, height, grid)
    found = text_to_box(f"it is at {text} .", width, height, grid)
    assert found is not None
    assert grid_of(text) == grid
    for value, again, side in zip((x0, y0, x1, y1), found, (width, height, width, height), strict=True):
        assert abs(value - again) <= 1.01 / grid.span * side


def test_moving_boxes_leaves_other_words_and_each_grid() -> None:
    text = "from (10,20)(30,40) to (100,200)(300,400), not (50,50)(40,60) nor (1,2)."
    assert move_boxes(text, lambda box: box) == text
    mirrored = move_boxes(text, lambda box: (1 - box[2], box[1], 1 - box[0], box[3]))
    assert mirrored == "from (70,20)(90,40) to (699,200)(899,400), not (50,50)(40,60) nor (1,2)."
