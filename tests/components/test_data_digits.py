"""The built-in corpus: split by scan, told truthfully, and never trivial to copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from components.data.boxes import text_to_box
from components.data.documents import CorpusError, Document, TextItem, parse_document
from components.data.sources.digits import compose, drawn, export_digits, load_scans, split_scans
from components.data.sources.ink import COLOURS, labels_from_map, labels_from_picture
from components.params import COMPOSED_KINDS, DataParams

COUNTS = dict.fromkeys(COMPOSED_KINDS, 24)
DATA = DataParams(documents=COUNTS, evaluation_documents=COUNTS)
Composed = list[tuple[Document, list[np.ndarray]]]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    folder = tmp_path_factory.mktemp("digits")
    export_digits(folder)
    return load_scans(folder)


@pytest.fixture(scope="module")
def train(scans: tuple[np.ndarray, np.ndarray]) -> Composed:
    return list(compose(DATA, 0, *scans, "train"))


@pytest.fixture(scope="module")
def held_out(scans: tuple[np.ndarray, np.ndarray]) -> Composed:
    return list(compose(DATA, 0, *scans, "evaluation"))


def of(kind: str, composed: Composed) -> Iterator[tuple[Document, list[np.ndarray]]]:
    return ((document, pictures) for document, pictures in composed if document.kind == kind)


def test_exported_scans_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in "ab":
        export_digits(tmp_path / name)
    for file in ("scans.npy", "labels.npy", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_exported_scans_are_those_of_load_digits(scans: tuple[np.ndarray, np.ndarray]) -> None:
    digits = load_digits()
    assert np.array_equal(scans[0], digits.images)
    assert np.array_equal(scans[1], digits.target)


@pytest.mark.parametrize("spoil", ["absent", "pickle", "shape", "range", "label"])
def test_unusable_scans_are_refused(tmp_path: Path, spoil: str) -> None:
    export_digits(tmp_path)
    scans, labels = np.load(tmp_path / "scans.npy").astype(np.float32), np.load(tmp_path / "labels.npy")
    if spoil == "absent":
        (tmp_path / "scans.npy").unlink()
    if spoil == "pickle":
        np.save(tmp_path / "scans.npy", np.array([{}]), allow_pickle=True)
    if spoil == "shape":
        np.save(tmp_path / "scans.npy", scans[:5])
    if spoil == "range":
        scans[0, 0, 0] = np.nan
        np.save(tmp_path / "scans.npy", scans)
    if spoil == "label":
        np.save(tmp_path / "labels.npy", labels + 1)
    with pytest.raises(CorpusError, match=str(tmp_path)):
        load_scans(tmp_path)


def test_no_scan_is_in_both_splits(scans: tuple[np.ndarray, np.ndarray], train: Composed, held_out: Composed) -> None:
    labels = scans[1]
    splits = split_scans(labels, 0.2, 0)
    assert len(np.intersect1d(*splits.values())) == 0
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(labels)))
    used = [{digit["scan"] for document, _ in part for scene in drawn(document) for digit in scene} for part in (train, held_out)]
    assert used[0] and used[1] and not used[0] & used[1]
    assert used[1] <= set(splits["evaluation"].tolist())


def test_documents_are_whole_and_composing_again_gives_them_again(
    scans: tuple[np.ndarray, np.ndarray], train: Composed, held_out: Composed
) -> None:
    assert {document.kind for document, _ in train} == set(COMPOSED_KINDS)
    fewer = DataParams(documents=dict.fromkeys(COMPOSED_KINDS, 3), evaluation_documents=COUNTS)
    by_id = {document.id: (document, pictures) for document, pictures in train}
    for document, pictures in compose(fewer, 0, *scans, "train"):
        assert document == by_id[document.id][0]
        assert all(np.array_equal(one, two) for one, two in zip(pictures, by_id[document.id][1], strict=True))
    for document, pictures in [*train, *held_out]:
        assert len(document.images) == len(pictures) == len(drawn(document))
        assert all(picture.shape == (32, 32, 3) and picture.dtype == np.uint8 for picture in pictures)
        assert parse_document(document.model_dump_json()) == document


def test_figures_lie_inside_and_do_not_overlap(train: Composed) -> None:
    for document, _ in train:
        for scene in drawn(document):
            covered = np.zeros((32, 32), int)
            for x0, y0, x1, y1 in (digit["box"] for digit in scene):
                assert 0 <= x0 < x1 <= 32
                assert 0 <= y0 < y1 <= 32
                assert 8 <= x1 - x0 <= 14
                covered[y0:y1, x0:x1] += 1
            assert covered.max() <= 1


def test_labels_are_what_was_scanned(scans: tuple[np.ndarray, np.ndarray], train: Composed) -> None:
    assert all(scans[1][digit["scan"]] == digit["digit"] for document, _ in train for scene in drawn(document) for digit in scene)


def test_a_picture_shows_each_figure_in_its_colour_where_it_is_said_to_be(train: Composed) -> None:
    for document, pictures in [*of("caption", train), *of("story", train), *of("question", train)]:
        for scene, picture in zip(drawn(document), pictures, strict=True):
            for digit in scene:
                x0, y0, x1, y1 = digit["box"]
                patch = picture[y0:y1, x0:x1].reshape(-1, 3).astype(float)
                brightest = patch[patch.sum(1).argmax()]
                assert np.abs(brightest - COLOURS[digit["colour"]]).max() < 60
                middle = ((x0 + x1) / 2, (y0 + y1) / 2)
                if digit["place"] != "center":
                    assert ("west" in digit["place"]) == (middle[0] < 16)
                    assert ("north" in digit["place"]) == (middle[1] < 16)


def test_questions_are_answered_by_what_is_drawn(train: Composed, held_out: Composed) -> None:
    for document, _ in [*of("question", train), *of("question", held_out)]:
        at = {digit["place"]: digit["digit"] for digit in drawn(document)[0]}
        assert len(at) == 4
        texts = [item.text for item in document.items if isinstance(item, TextItem)]
        for asked, answer in zip(texts[::2], texts[1::2], strict=True):
            assert answer == str(at[asked.removeprefix("what digit is ").removesuffix("?")])
        assert document.fields["answer"] == texts[1]
    assert all(len(document.items) == 3 for document, _ in of("question", held_out))


def test_a_scene_is_asked_in_full_once_and_then_shortly_or_once_and_in_full_to_evaluate(train: Composed, held_out: Composed) -> None:
    kinds = set()
    for document, _ in of("question", train):
        full, *short = document.texts[::2]
        place = document.fields["place"]
        assert full == document.fields["question"] == f"what digit is {place}?"
        others = {"northwest", "northeast", "southwest", "southeast"} - {place}
        assert sorted(short) in ([], sorted(f"{other}?" for other in others))
        kinds.add(len(short))
    assert kinds == {0, 3}
    for document, _ in of("question", held_out):
        full = f"what digit is {document.fields['place']}?"
        assert document.fields["question"] == full
        assert document.texts == (full, document.fields["answer"])


def test_two_picture_questions_need_both_pictures(train: Composed) -> None:
    kinds = set()
    for document, _ in of("multi", train):
        digits = [scene[0]["digit"] for scene in drawn(document)]
        one, two = (digits[number] for number in document.fields["pictures_needed"])
        kinds.add(document.fields["question_type"])
        names = [("first", "second", "third")[number] for number in document.fields["pictures_needed"]]
        expected = {"sum": str(one + two), "same": "yes" if one == two else "no", "larger": names[int(two > one)]}
        assert document.fields["answer"] == expected[document.fields["question_type"]]
        told = " ".join(item.text for item in document.items[: 2 * len(digits)] if isinstance(item, TextItem))
        assert not any(character.isdigit() for character in told)
    assert kinds == {"sum", "same", "larger"}


def test_a_referring_phrase_means_one_figure_and_needs_colour_and_digit(train: Composed) -> None:
    shared = 0
    for document, _ in of("referring", train):
        scene = drawn(document)[0]
        _, colour, digit = document.fields["phrase"].split()
        meant = [figure for figure in scene if figure["colour"] == colour and str(figure["digit"]) == digit]
        assert [figure["box"] for figure in meant] == [document.fields["box"]]
        box = text_to_box(document.texts[1], 32, 32)
        assert box is not None
        assert np.abs(np.array(box) - document.fields["box"]).max() < 0.4
        shared += sum(figure["colour"] == colour for figure in scene) > 1
    assert shared >= 6


def test_segmentation_labels_are_recovered_from_the_picture_and_not_from_a_copied_map(held_out: Composed) -> None:
    scores, copied = [], []
    for document, (painted, picture) in of("segmentation", held_out):
        truth = labels_from_map(painted)
        assert set(np.unique(truth)) - {0} == {1 + digit for digit in document.fields["classes"]}
        for scored, found in ((scores, labels_from_picture(picture)), (copied, labels_from_picture(painted))):
            classes = np.unique(truth)
            scored.append(np.mean([((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in classes]))
    assert np.mean(scores) > 0.95
    assert min(scores) > 0.85
    assert np.mean(copied) < 0.6


def test_a_story_follows_from_its_first_sentence(train: Composed) -> None:
    steps = {"walks clockwise": 1, "walks counterclockwise": -1, "jumps across": 2, "stays": 0}
    corners = ("northwest", "northeast", "southeast", "southwest")
    events = set()
    for document, _ in of("story", train):
        frames = document.fields["frames"]
        assert len(frames) == 5
        assert document.prompt_items == 2
        hero = [frame["digits"][0] for frame in frames]
        assert len({digit["scan"] for digit in hero}) == 1
        start = corners.index(hero[0]["place"])
        assert [digit["place"] for digit in hero] == [corners[(start + steps[document.fields["motion"]] * n) % 4] for n in range(5)]
        assert document.fields["motion"] in document.texts[0]
        assert [len(frame["digits"]) for frame in frames] == ([1, 1, 2, 2, 2] if document.fields["event"] == "meets" else [1] * 5)
        assert len({digit["colour"] for digit in hero}) == (2 if document.fields["event"] == "turns" else 1)
        for frame in frames[1:]:
            assert (
                frame["text"]
                == ", ".join(
                    f"{d['place']} {'an' if d['colour'][0] in 'aeiou' else 'a'} {d['colour']} {d['digit']}" for d in frame["digits"]
                )
                + "."
            )
        assert [item.loss for item in document.items] == [False, *[True] * 9]
        events.add(document.fields["event"])
    assert events == {"turns", "meets", "none"}


def test_a_redrawn_story_differs_from_the_story(train: Composed) -> None:
    for document, pictures in of("style", train):
        half = len(pictures) // 2
        name = document.fields["style"]
        assert name in document.items[document.prompt_items - 1].text  # type: ignore[union-attr]
        assert all(
            np.abs(one.astype(int) - two).max() > 20 or name.startswith("coloured")
            for one, two in zip(pictures[:half], pictures[half:], strict=True)
        )


def test_decomposed_objects_are_those_of_the_scene(train: Composed) -> None:
    for document, _ in of("decompose", train):
        scene, *parts = drawn(document)
        assert [digit for part in parts for digit in part] == scene
