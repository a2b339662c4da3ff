"""Scores of answers whose quality is known: the truth itself, silence, and the answers of another document."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from components.data.boxes import box_to_text
from components.data.documents import Document, ImageItem, LoadedDocument, TextItem
from components.data.sources.digits import compose, drawn, split_scans
from components.evaluate import score
from components.evaluation.answer_log import Answer, AnswerLog, TextAnswer, read_answers
from components.evaluation.estimates import Estimate, Unavailable
from components.evaluation.judge import Judge, train_judge
from components.evaluation.manifest import plan
from components.evaluation.metrics.interleaving import merged, places_agree, stated_digits, stops_agree, texts_before_pictures
from components.evaluation.picture_scoring import score_segmentation, score_story
from components.evaluation.scoring import Evidence, guessing, outline, sample_rows, score_grounding, score_vqa
from components.evaluation.statistics import Resampling
from components.metrics import METRICS, kinds_of, metrics_of
from components.params import TASKS, DataParams, SamplingParams

COUNTS = {"caption": 12, "multi": 30, "question": 30, "referring": 20, "segmentation": 12, "story": 12}
DATA = DataParams(documents={}, evaluation_documents=COUNTS)
HOW = Resampling(resamples=200)


@pytest.fixture(scope="module")
def scans():
    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


@pytest.fixture(scope="module")
def judge(scans) -> Judge:
    training = split_scans(scans[1], DATA.held_out_fraction, 0)["train"]
    return train_judge(*scans, training, DATA.image_px, 0)


@pytest.fixture(scope="module")
def documents(scans) -> list[LoadedDocument]:
    return [LoadedDocument(document, tuple(pictures)) for document, pictures in compose(DATA, 0, *scans, "evaluation")]


def truth(loaded: LoadedDocument, items: int, mode: str) -> list:
    """What the document itself goes on with: strings and pictures."""
    pictures = iter(loaded.pictures)
    content = [next(pictures) if isinstance(item, ImageItem) else item.text for item in loaded.document.items]
    return content[items:] if mode == "document" else content[items : items + 1]


def silence(loaded: LoadedDocument, items: int, mode: str) -> list:
    return [np.zeros((32, 32, 3), np.uint8)] if mode == "picture" else []


def evidence(task: str, documents: list[LoadedDocument], folder: Path, answer=truth, ended: bool = True) -> Evidence:
    chosen = {one.document.id: one for one in documents if one.document.kind in kinds_of(task)}
    manifest = plan(task, [one.document for one in chosen.values()], seed=0, sampling=SamplingParams(), data={})
    with AnswerLog(folder, 0) as log:
        for request in manifest.requests:
            content = answer(chosen[request.document], request.items, request.mode)
            items = [
                TextAnswer(text=one) if isinstance(one, str) else log.keep(request.id, number, one) for number, one in enumerate(content)
            ]
            log.append([Answer(request=request.id, items=tuple(items), ended=ended)])
    return Evidence(manifest, chosen, read_answers(folder), folder, HOW)


def test_true_answers_are_all_right(documents, tmp_path):
    scored = score_vqa(evidence("vqa", documents, tmp_path))
    assert scored.metrics["question_accuracy"].value == scored.metrics["two_picture_accuracy"].value == 1
    assert 0.05 < scored.metrics["question_accuracy"].chance < 0.2
    assert scored.metrics["question_accuracy"].n == COUNTS["question"]
    if shutil.which("java"):
        assert scored.metrics["cider"].value > 5


def test_silence_is_wrong_and_flagged(documents, tmp_path):
    asked = evidence("vqa", documents, tmp_path, silence, ended=False)
    scored = score_vqa(asked)
    assert scored.metrics["question_accuracy"].value == scored.metrics["two_picture_accuracy"].value == 0
    assert all(row["flags"] == ["empty", "cut_off"] for row in sample_rows(asked, scored))


def test_without_java_only_captions_are_unavailable(documents, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    scored = score_vqa(evidence("vqa", documents, tmp_path))
    assert isinstance(scored.metrics["cider"], Unavailable)
    assert scored.metrics["question_accuracy"].value == 1


def test_true_boxes_survive_their_text(documents, tmp_path):
    scored = score_grounding(evidence("grounding", documents, tmp_path))
    assert scored.metrics["box_accuracy"].value == scored.metrics["parse_rate"].value == 1
    assert scored.metrics["box_accuracy"].chance < 0.6


def test_boxes_elsewhere_parse_and_are_wrong(documents, tmp_path):
    def outside(loaded, items, mode):
        x0, y0, x1, y1 = loaded.document.fields["box"]
        return [box_to_text((32 - x1, 32 - y1, 32 - x0, 32 - y0), 32, 32)]

    scored = score_grounding(evidence("grounding", documents, tmp_path, outside))
    assert scored.metrics["box_accuracy"].value < 0.2
    assert scored.metrics["parse_rate"].value == 1


def test_true_pictures_reach_the_segmentation_ceiling_and_the_map_itself_does_not(documents, tmp_path):
    scored = score_segmentation(evidence("segmentation", documents, tmp_path / "truth"))
    assert scored.metrics["miou"].value == scored.metrics["miou"].ceiling > 0.9
    copied = score_segmentation(evidence("segmentation", documents, tmp_path / "map", lambda loaded, items, mode: [loaded.pictures[0]]))
    assert copied.metrics["miou"].value < 0.3
    assert copied.metrics["digit_miou"].value < copied.metrics["miou"].value


def test_true_stories_are_recognised_up_to_the_judges_ceiling(documents, judge, tmp_path):
    asked = evidence("story", documents, tmp_path)
    scored = score_story(asked, lambda: judge)
    for metric in ("picture_accuracy", "digit_accuracy", "zero_shot_picture_accuracy"):
        assert scored.metrics[metric].value == scored.metrics[metric].ceiling >= 0.95
    assert scored.metrics["placement_accuracy"].value == scored.metrics["stop_accuracy"].value == 1
    assert scored.metrics["text_picture_agreement"].value >= 0.95
    rows = sample_rows(asked, scored)
    assert {key for row in rows for key in row["scores"]} == set(scored.metrics)
    assert len(rows) == COUNTS["story"] * 9
    assert [row.label for row in scored.illustrations[0].rows] == [
        "truth",
        "story model, true texts",
        "before fine-tuning",
        "story model on its own",
    ]


def test_pictures_of_another_story_are_not_recognised(documents, judge, tmp_path):
    stories = [one for one in documents if one.document.kind == "story"]
    other = {one.document.id: stories[number - 1] for number, one in enumerate(stories)}
    asked = evidence("story", documents, tmp_path, lambda loaded, items, mode: truth(other[loaded.document.id], items, mode))
    scored = score_story(asked, lambda: judge)
    assert scored.metrics["picture_accuracy"].value < 0.3


def test_a_model_that_draws_nothing_has_no_agreement_to_report(documents, judge, tmp_path):
    scored = score_story(evidence("story", documents, tmp_path, silence), lambda: judge)
    assert (
        scored.metrics["picture_accuracy"].value == scored.metrics["placement_accuracy"].value == scored.metrics["stop_accuracy"].value == 0
    )
    assert isinstance(scored.metrics["text_picture_agreement"], Unavailable)


def test_documents_of_another_source_are_not_judged(tmp_path, documents):
    items = (TextItem(text="once"), ImageItem(id="0", path="a.png"))
    foreign = Document(id="f", source="folder", kind="story", split="evaluation", licence="x", origin="human", items=items, prompt_items=1)
    loaded = LoadedDocument(foreign, (np.zeros((32, 32, 3), np.uint8),))
    scored = score_story(evidence("story", [loaded], tmp_path), lambda: pytest.fail("no judge is needed"))
    assert isinstance(scored.metrics["picture_accuracy"], Unavailable)
    assert scored.metrics["placement_accuracy"].value == 1


def test_a_partial_set_has_no_score(documents, tmp_path):
    whole = evidence("grounding", documents, tmp_path)
    partial = Evidence(whole.manifest, whole.documents, dict(list(whole.answers.items())[1:]), whole.folder, HOW)
    with pytest.raises(LookupError, match="1 of 20 requests"):
        score_grounding(partial)


def test_the_judge_recognises_true_held_out_digits_at_their_places(judge, documents):
    frames = [
        (picture, digits)
        for one in documents
        if one.document.kind == "story"
        for picture, digits in zip(one.pictures, drawn(one.document), strict=True)
    ]
    found = judge.recognises(
        [picture for picture, _ in frames], [{digit["place"]: digit["digit"] for digit in digits} for _, digits in frames]
    )
    assert np.mean([all(frame) for frame in found]) >= 0.95
    mirrored = {"northwest": "southeast", "southeast": "northwest", "northeast": "southwest", "southwest": "northeast"}
    alone = [(picture, digits[0]) for picture, digits in frames if len(digits) == 1]
    assert judge.read([picture for picture, _ in alone], [mirrored[digit["place"]] for _, digit in alone]) == [None] * len(alone)


def test_the_judge_finds_no_digits_in_noise(judge):
    noise = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3)).astype(np.uint8)
    stated = [{"northwest": number % 10} for number in range(100)]
    assert np.mean([all(frame) for frame in judge.recognises(list(noise), stated)]) < 0.2


def test_the_judge_is_the_same_each_time_it_is_trained(scans, judge, documents):
    training = split_scans(scans[1], DATA.held_out_fraction, 0)["train"]
    again = train_judge(*scans, training, DATA.image_px, 0)
    pictures = [one.pictures[0] for one in documents if one.document.kind == "story"]
    places = ["northwest"] * len(pictures)
    assert again.read(pictures, places) == judge.read(pictures, places)


def test_guessing_knows_the_answers_of_each_type():
    assert guessing([("a", "yes"), ("a", "no"), ("b", "7")]) == pytest.approx((1 + 1) / 3)
    assert guessing([("", str(number % 10)) for number in range(100)]) == pytest.approx(0.1)


def test_interleaving_compares_kinds_of_items_and_not_how_texts_are_cut():
    assert merged(["text", "text", "image", "image", "text"]) == ["text", "image", "image", "text"]
    assert places_agree(["text", "text", "image"], ["text", "image", "text", "image"]) == [True, True, False, False]
    assert places_agree(["image", "text"], ["text", "image"]) == [False, False]
    assert places_agree([], ["text"]) == [False]


@pytest.mark.parametrize(
    ("generated", "ended", "right"),
    [
        (["text", "image"], True, True),
        (["text", "image"], False, False),
        (["text", "image", "text"], True, False),
        (["image", "image"], True, False),
        ([], True, False),
    ],
)
def test_stopping_is_the_models_own_act_after_the_last_picture(generated, ended, right):
    assert stops_agree(generated, ["text", "image"], ended) is right


def test_sentences_tell_which_digit_is_where():
    assert stated_digits("northwest a red 3, southeast a blue 7.") == {"northwest": 3, "southeast": 7}
    assert stated_digits("northwest a red 3 walks clockwise and meets a blue 7.") == {"northwest": 3}
    assert stated_digits("something red northwest.") == {}
    assert texts_before_pictures([("text", "a"), ("text", "b"), ("image", ""), ("image", ""), ("text", "c")]) == ["ab", ""]


def test_an_outline_lies_on_the_box_and_inside_the_picture():
    drawn_box = outline(np.zeros((4, 4, 3), np.uint8), (1, 1, 3, 3), scale=4)
    rows, columns = np.nonzero(drawn_box[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 11, 4, 11)
    assert outline(np.zeros((4, 4, 3), np.uint8), (-9, -9, 99, 99)).any()
    assert not outline(np.zeros((4, 4, 3), np.uint8), None).any()


def test_every_metric_is_an_estimate_with_its_sample_size(documents, judge, tmp_path):
    scored = score_story(evidence("story", documents, tmp_path), lambda: judge)
    for metric in scored.metrics.values():
        assert isinstance(metric, Estimate)
        assert metric.low <= metric.value <= metric.high


@pytest.mark.parametrize("task", TASKS)
def test_the_table_of_metrics_says_what_is_scored(documents, judge, tmp_path, task):
    asked = evidence(task, documents, tmp_path)
    scored = score(asked, lambda: judge)
    assert set(scored.metrics) == set(metrics_of(task))
    available = {name for name, metric in scored.metrics.items() if not isinstance(metric, Unavailable)}
    noted = {name for values in scored.scores.values() for name in values}
    assert noted & set(METRICS) == available & set(metrics_of(task, paired=True))
