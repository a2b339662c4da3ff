"""The prompts of the paper as items of a document: training (appendix B.2) and evaluation (Table 17), word for word.

Each function gives (items, prompt_items). Pictures are the caller's own image items, in which only `loss` is set here. The reference
(answer, caption, box) is the last item; where it is None, as for a hidden test set, the items end with the prompt. The model's tokenizer
puts a space before every text item, so blanks where two items meet are not written.

`RELEASE` names the prompts of the released code where it differs; `wording="release"` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from components.data.boxes import THOUSAND, box_to_text
from components.data.documents import ImageItem, Split, TextItem

Items = list[TextItem | ImageItem]
Wording = Literal["paper", "release"]
Length = Literal["short", "long"]

ASK = "Based on the image, please answer the question."
ONE_WORD = "Please provide an accurate answer within one word."
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
ANSWER = "The answer is:"
CAPTION: dict[tuple[Length, bool], str] = {
    ("short", False): "a photo of",
    ("long", False): "Please describe the image in detail. The image depicts",
    ("short", True): "Provide a one-sentence caption for the provided image.",
    ("long", True): "Please describe the image in detail.",
}
"""By length and whether the model was fine-tuned (Table 17)."""
RELEASE = {
    "grounding": "Provide the bounding box coordinate of the region this sentence describes. {phrase}<box>",
    "grounding answer": "{box}</box>",
    "visual dialog caption": "caption: {caption}.",
}


def caption(picture: ImageItem, text: str | None, *, length: Length, finetuned: bool) -> tuple[Items, int]:
    """`{image} PROMPT` and the caption. Short: COCO, Flickr30k, NoCaps; long: Image2Paragraph. The same prompt in training and
    evaluation: the paper prints none of its own for training."""
    return _answered([_shown(picture), _given(CAPTION[length, finetuned])], text)


def vqa(picture: ImageItem, question: str, answer: str | None, *, split: Split) -> tuple[Items, int]:
    """A visual question. In training `ASK {image}{question}. The answer is: {answer}` (B.2; the period stands after the question's own
    mark), at evaluation the sentence that asks for one word (Table 17)."""
    if split == "train":
        return _answered([_given(ASK), _shown(picture), _given(f"{question}. {ANSWER}")], answer)
    return _answered([_given(ASK), _shown(picture), _given(f"{question} {ONE_WORD} {ANSWER}")], answer)


def vizwiz(picture: ImageItem, question: str, answer: str | None) -> tuple[Items, int]:
    """A question of VizWiz at evaluation, which may be answered with `Unanswerable` (Table 17)."""
    return _answered([_given(ASK), _shown(picture), _given(f"{question} {UNANSWERABLE} {ONE_WORD} {ANSWER}")], answer)


def visual_dialog(
    picture: ImageItem,
    caption: str,
    history: Sequence[tuple[str, str]],
    question: str,
    answer: str | None,
    *,
    wording: Wording = "paper",
) -> tuple[Items, int]:
    """A round of a visual dialogue after its (question, answer) history, all of it (the release loses the last past round).

    No period follows the caption (the release has one), one follows each answer of the history; question marks are not doubled.
    """
    start = RELEASE["visual dialog caption"].format(caption=caption.rstrip(". ")) if wording == "release" else f"caption: {caption}"
    rounds = [f"question: {_asked(past)}? answer: {reply.rstrip('. ')}." for past, reply in history]
    return _answered([_shown(picture), _given(" ".join([start, *rounds, f"question: {_asked(question)}? answer:"]))], answer)


def conversation(pictures: Sequence[ImageItem], rounds: Sequence[tuple[str, str]], *, instruction: str = ASK) -> tuple[Items, int]:
    """Pictures and several rounds of questions and answers in one document, each answer trained: the first in the words of `vqa` for
    training, those after it without the instruction. The reference is the first answer. Raises ValueError where there is no round."""
    if not rounds:
        raise ValueError("a conversation needs a question and its answer")
    items: Items = [_given(instruction), *map(_shown, pictures)]
    for question, answer in rounds:
        items += [_given(f"{question}. {ANSWER}"), TextItem(text=answer)]
    return items, len(pictures) + 2


def grounding(
    picture: ImageItem, phrase: str, box: Sequence[float] | None, width: int, height: int, *, wording: Wording = "paper"
) -> tuple[Items, int]:
    """A referring expression and its box, given in pixels of the `width` x `height` picture, in three digits a coordinate (B.2).

    The picture stands first: the paper prints no place for it, the release puts it there.
    """
    text = None if box is None else box_to_text(box, width, height, THOUSAND)
    if wording == "release":
        answer = None if text is None else RELEASE["grounding answer"].format(box=text)
        return _answered([_shown(picture), _given(RELEASE["grounding"].format(phrase=phrase))], answer)
    question = f"Question: Provide the bounding box coordinate of the region this sentence describes: {phrase}, Answer:"
    return _answered([_shown(picture), _given(question)], text)


def segmentation(class_map: ImageItem, caption: str, picture: ImageItem) -> tuple[Items, int]:
    """`{segmentation image}{caption}{ground truth image}` (B.2): the last picture is generated and trained."""
    return [_shown(class_map), _given(caption), picture.model_copy(update={"loss": True})], 2


def story(turns: Sequence[tuple[str, ImageItem]], *, given_pictures: int) -> tuple[Items, int]:
    """Captions and pictures in turn, every picture trained (B.2). At evaluation the first `given_pictures` pictures and the caption after
    them are given: all but one for VIST, one for PororoSV and FlintstonesSV. Raises ValueError where none is left to generate."""
    if not 0 <= given_pictures < len(turns):
        raise ValueError(f"{given_pictures} pictures of a story of {len(turns)} are given; one at least must be left to generate")
    items: Items = []
    for text, picture in turns:
        items += [_given(text), picture.model_copy(update={"loss": True})]
    return items, 2 * given_pictures + 1


def text_to_image(text: str, picture: ImageItem) -> tuple[Items, int]:
    """A caption whose picture is generated (MS-COCO 30k, LN-COCO)."""
    return [_given(text), picture.model_copy(update={"loss": True})], 1


def _answered(prompt: Items, answer: str | None) -> tuple[Items, int]:
    return [*prompt, *([] if answer is None else [TextItem(text=answer)])], len(prompt)


def _given(text: str) -> TextItem:
    return TextItem(text=text, loss=False)


def _shown(picture: ImageItem) -> ImageItem:
    return picture.model_copy(update={"loss": False})


def _asked(question: str) -> str:
    return question.rstrip("? ")
