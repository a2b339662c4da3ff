import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluation.metrics import answers, boxes
from components.evaluation.metrics.segmentation import IGNORE, areas


@pytest.mark.parametrize(
    ("generated", "answer", "right"),
    [
        ("7", "7", True),
        (" 7 .", "7", True),
        ("7 7", "7", True),
        ("77", "7", False),
        ("", "7", False),
        ("Yes", "yes", True),
        ("1 and 7", "7", False),
    ],
)
def test_an_answer_is_right_when_it_begins_with_the_true_one(generated, answer, right):
    assert answers.is_right(generated, answer) is right


def test_a_true_answer_without_a_word_is_an_error():
    with pytest.raises(ValueError, match="no word"):
        answers.is_right("7", "?")


@given(st.tuples(*[st.integers(0, 99)] * 4))
def test_written_boxes_parse_back(numbers):
    x0, y0, x1, y1 = numbers
    assert boxes.parse_box(f"it is ({x0},{y0})({x1},{y1}) .", 99, 198, 99) == pytest.approx((x0, 2 * y0, x1, 2 * y1))


@pytest.mark.parametrize("text", ["", "(1,2)", "(1,2)(3)", "(a,2)(3,4)", "(nan,2)(3,4)", "((1,2)", "1,2,3,4"])
def test_what_is_no_box_does_not_parse(text):
    assert boxes.parse_box(text, 10, 10, 99) is None


@given(st.text(alphabet="()0123456789,. -naif", max_size=30))
def test_the_parser_never_raises(text):
    box = boxes.parse_box(text, 10, 10, 99)
    assert box is None or (len(box) == 4 and boxes.intersection_over_union(box, (0, 0, 5, 5)) <= 1)


def test_exactly_half_is_right_and_swapped_corners_are_wrong():
    third = 0.1 + 0.2
    assert boxes.is_right((0, 0, third, 1), (0, 0, 2 * third, 1))
    assert not boxes.is_right((0, 0, 0.49, 1), (0, 0, 1, 1))
    assert not boxes.is_right((5, 5, 0, 0), (0, 0, 5, 5))
    assert not boxes.is_right(None, (0, 0, 5, 5))


@pytest.mark.parametrize(("found", "known"), [((0, 0, 2, 2), 1.0), ((1, 1, 3, 3), 1 / 7), ((2, 0, 4, 2), 0.0)])
def test_intersection_over_union_of_known_boxes(found, known):
    assert boxes.intersection_over_union(found, (0, 0, 2, 2)) == pytest.approx(known)


def test_miou_sums_areas_over_pictures_before_dividing():
    truth = np.array([[[1, 1, 0, 0]], [[1, 0, 0, IGNORE]]])
    predicted = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 1]]])
    summed = areas(predicted, truth, classes=3)
    assert float(summed.miou()) == pytest.approx((1 / 3 + 4 / 6) / 2)
    assert summed.miou(np.array([[0, 0], [1, 1]])) == pytest.approx([(1 / 2 + 2 / 3) / 2, (0 + 2 / 3) / 2])


def test_miou_leaves_out_classes_that_the_truth_lacks_but_keeps_the_missed_ones():
    truth = np.array([[[0, 0, 2, 2]]])
    assert float(areas(np.array([[[0, 0, 1, 1]]]), truth, classes=4).miou()) == pytest.approx(0.5)
    assert np.isnan(areas(np.full((1, 1, 4), 0), np.full((1, 1, 4), IGNORE), classes=4).miou())


def test_areas_do_not_overflow_and_refuse_bad_labels():
    assert areas(np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8), 1).intersection.dtype == np.int64
    with pytest.raises(ValueError, match=r"0\.\.1"):
        areas(np.full((1, 1, 1), 2), np.zeros((1, 1, 1), int), 2)
    with pytest.raises(ValueError, match="differ in shape"):
        areas(np.zeros((1, 1, 2)), np.zeros((1, 1, 1)), 2)
