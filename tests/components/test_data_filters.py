"""Rules that one document decides: each exactly, the document they leave, and the counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filter_world import corpus, document, judged, pair, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.data.collate import Collator, Sample
from components.data.documents import CorpusError, LoadedDocument
from components.data.filters.chain import Filters
from components.data.filters.funnel import ORDER, Funnel, funnel_metrics, funnel_rows
from components.data.filters.outcome import Dropped, Kept, Outcome, records
from components.data.filters.sequence import sequence_score
from components.data.layout import encode
from components.data.pictures import decode
from components.data.shards import ShardWriter
from components.data.tokenizer import Tokenizer, fit
from components.filter_params import FilterParams
from components.params import DataParams
from model.presets import preset

MMC4: dict[str, Any] = {"min_similarity": 0.24, "max_images": 6, "drop_imageless": True, "single_image_drop": 0.5}
PNG = picture(0)
ROOT = Path(__file__).resolve().parents[2]


def page(key: str, scores: list[float | None], **more: Any) -> Any:
    """A page whose sentences follow their pictures."""
    items: list[Any] = ["it begins ."]
    for number, score in enumerate(scores):
        items += [(picture(number), {} if score is None else {"similarity": score}), f"sentence {number} ."]
    return document(key, items, **more)


def kept(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, Kept)
    return [image.id for image in outcome.accepted.document.images]


def reason(outcome: Outcome) -> tuple[str, str]:
    assert isinstance(outcome, Dropped)
    return outcome.filter, outcome.reason


def test_no_rule_is_on_by_itself() -> None:
    outcome = judged(page("a", [0.0] * 9))
    assert isinstance(outcome, Kept)
    assert outcome.losses == ()
    assert Filters(corpus(), 0, Path("nowhere")).nothing.dropped == {}


def test_pictures_that_do_not_match_their_sentence_go_and_the_rest_stays_a_document() -> None:
    before = page("a", [0.3, 0.1, 0.24, None], prompt_items=4, fields={"image_similarity": np.arange(16).reshape(4, 4).tolist()})
    outcome = judged(before, min_similarity=0.24)
    assert isinstance(outcome, Kept)
    after = outcome.accepted
    assert kept(outcome) == ["i0", "i2", "i3"]
    assert [item.path for item in after.document.images] == ["a.0.png", "a.1.png", "a.2.png"]
    assert after.images == [picture(0), picture(2), picture(3)]
    assert [image.loss for image in after.document.images] == [True, True, False]
    assert after.document.texts == before.document.texts
    assert [item.type for item in after.document.items] == ["text", "image", "text", "text", "image", "text", "image", "text"]
    assert after.document.prompt_items == 3, "the fourth item of the prompt was the second picture"
    assert after.document.fields["image_similarity"] == [[0, 2, 3], [8, 10, 11], [12, 14, 15]]
    assert [(loss.image, loss.filter) for loss in outcome.losses] == [("i1", "similarity")]
    assert kept(judged(before, min_similarity=0.24, drop_unstated=("similarity",))) == ["i0", "i2"]
    assert before.document.prompt_items == 4, "what was given stays as it was"


def test_a_smaller_document_is_one_that_shards_take(tmp_path: Path) -> None:
    outcome = judged(page("a", [0.3, 0.1, 0.4]), min_similarity=0.24)
    assert isinstance(outcome, Kept)
    with ShardWriter(tmp_path, 1) as writer:
        writer.add(outcome.accepted.document, outcome.accepted.images)
        assert [shard.documents for shard in writer.finish()] == [1]


def test_a_kind_that_cannot_miss_a_picture_goes_as_a_whole() -> None:
    assert reason(judged(pair("a", "a cat .", PNG, {"similarity": 0.05}), min_similarity=0.1)) == (
        "similarity",
        "image i0: similarity 0.05 is below 0.1",
    )
    assert kept(judged(pair("a", "a cat .", PNG, {"similarity": 0.1}), min_similarity=0.1)) == ["i0"]


def test_a_document_of_pictures_alone_may_lose_all() -> None:
    only = document("a", [(PNG, {"similarity": 0.0})], "interleaved")
    assert reason(judged(only, min_similarity=0.24))[0] == "similarity"


def test_at_most_six_pictures_stay_by_a_shuffle_of_the_document_or_by_likeness() -> None:
    many = page("a", [0.3, 0.9, 0.4, 0.4, 0.8, None, 0.7, 0.6])
    drawn = kept(judged(many, max_images=6))
    assert len(drawn) == 6
    assert drawn == sorted(drawn)
    assert drawn == kept(judged(many, max_images=6))
    assert kept(judged(many, max_images=6, kept_images="similar")) == ["i1", "i2", "i3", "i4", "i6", "i7"]
    times = Counter(image for number in range(300) for image in kept(judged(page(f"d{number}", [0.5] * 8), max_images=2)))
    assert set(times) == {f"i{number}" for number in range(8)}
    assert min(times.values()) > 45, "75 times each are expected"


def test_all_pages_without_a_picture_go_and_half_of_those_with_one() -> None:
    assert reason(judged(page("a", [0.1, 0.2]), **MMC4)) == ("imageless", "no image")
    assert kept(judged(document("a", ["only words ."], "text"), **MMC4)) == []
    gone = sum(isinstance(judged(page(f"d{number}", [0.5, 0.1]), **MMC4), Dropped) for number in range(400))
    assert 160 < gone < 240, "a fair coin"
    assert all(isinstance(judged(page(f"d{number}", [0.5, 0.5]), **MMC4), Kept) for number in range(20))


@pytest.mark.parametrize(
    ("unit", "short", "long"), [("characters", "a red cat", "a red cat."), ("words", "a b c d e f g h i", "a b c d e f g h i j")]
)
def test_captions_below_ten_are_dropped(unit: str, short: str, long: str) -> None:
    assert reason(judged(pair("a", f" {short} ", PNG), min_caption=10, caption_unit=unit))[0] == "caption_length"
    assert kept(judged(pair("a", long, PNG), min_caption=10, caption_unit=unit)) == ["i0"]
    assert kept(judged(page("a", [0.5]), min_caption=1000, caption_unit=unit)) == ["i0"], "only captions are captions"


def test_tokens_are_counted_by_the_tokenizer_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(fit(["a red cat sits here ."] * 9, 300))
    rules = corpus(min_caption=3, caption_unit="tokens", caption_tokenizer="tokenizer.json")
    filters = Filters(rules, 0, tmp_path)
    assert reason(filters.apply(pair("a", "a cat", PNG)))[1] == "caption of 2 tokens is shorter than 3"
    assert kept(filters.apply(pair("a", "a red cat", PNG))) == ["i0"]
    with pytest.raises(CorpusError, match="caption_tokenizer"):
        Filters(rules, 0, tmp_path / "elsewhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"no tokenizer\.json"):
        Filters(rules, 0, tmp_path)


@pytest.mark.parametrize(
    ("stated", "stays"), [("en", True), ("EN-gb", True), ("en_US", True), ("eng", False), ("de", False), (None, True), (7, True)]
)
def test_languages_are_honoured(stated: Any, stays: bool) -> None:
    facts = {} if stated is None else {"language": stated}
    assert isinstance(judged(page("a", [0.5], facts=facts), languages=("en",)), Kept if stays else Dropped)
    if stated in (None, 7):
        assert isinstance(judged(page("a", [0.5], facts=facts), languages=("en",), drop_unstated=("language",)), Dropped)


@pytest.mark.parametrize(
    ("stated", "stays"), [("NSFW", False), ("unsure", False), ("UNLIKELY", True), (0.6, False), (0.5, True), (True, False), (None, True)]
)
def test_what_is_stated_as_not_safe_goes(stated: Any, stays: bool) -> None:
    facts = {} if stated is None else {"nsfw": stated}
    rules: dict[str, Any] = {"nsfw_values": ("NSFW", "UNSURE"), "max_nsfw": 0.5}
    assert isinstance(judged(pair("a", "a cat .", PNG, facts), **rules), Kept if stays else Dropped)
    assert isinstance(judged(pair("a", "a cat .", PNG, facts={}), **rules, drop_unstated=("nsfw",)), Dropped)
    both = document("b", [(PNG, facts), "words .", (picture(1), {})])
    assert kept(judged(both, **rules)) == (["i0", "i1"] if stays else ["i1"])
    whole = document("c", [(PNG, {}), "words ."], facts=facts)
    assert isinstance(judged(whole, **rules), Kept if stays else Dropped)
    if stays and stated is not None:
        assert kept(judged(whole, **rules, drop_unstated=("nsfw",))) == ["i0"], "the page speaks for its pictures"


def test_sizes_are_those_of_the_decoded_picture() -> None:
    items = [(picture(1, 40, 20), {"width": 9000, "height": 1}), "one .", (picture(2, 20, 80), {}), "two .", (picture(3, 8, 8), {})]
    assert kept(judged(document("a", items), min_side_px=10)) == ["i0", "i1"]
    assert kept(judged(document("a", items), max_side_px=40)) == ["i0", "i2"]
    assert kept(judged(document("a", items), max_aspect=2.0)) == ["i0", "i2"]


def test_scores_of_pictures_and_documents() -> None:
    assert isinstance(judged(pair("a", "a cat .", PNG, {"aesthetic": 4.9}), min_aesthetic=5.0), Dropped)
    assert isinstance(judged(pair("a", "a cat .", PNG, {"aesthetic": "4.9"}), min_aesthetic=5.0), Kept), "a word is no score"
    assert reason(judged(page("a", [0.5], facts={"alignment": 0.1}), min_alignment=0.2)) == ("alignment", "alignment 0.1 is below 0.2")


def test_a_sequence_is_coherent_where_neighbours_are_more_alike_than_others() -> None:
    steps = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.8], [0.1, 0.8, 1.0]])
    assert sequence_score(steps) == pytest.approx(0.85 - 0.6)
    fields = {"image_similarity": steps[[1, 0, 2]][:, [1, 0, 2]].tolist()}
    assert reason(judged(page("a", [0.5] * 3, fields=fields), min_sequence_score=0.0))[1] == "sequence score -0.1 is below 0"
    assert len(kept(judged(page("a", [0.5] * 3, fields={"image_similarity": steps.tolist()}), min_sequence_score=0.2))) == 3
    for broken in ([[1]], "x", [[1, 2], [3]], [[float("inf")] * 3] * 3, None):
        spoiled = page("a", [0.5] * 3, fields={"image_similarity": broken})
        assert isinstance(judged(spoiled, min_sequence_score=0.0), Kept)
        assert isinstance(judged(spoiled, min_sequence_score=0.0, drop_unstated=("sequence",)), Dropped)


def test_documents_for_evaluation_are_not_touched() -> None:
    outcome = judged(page("a", [0.0] * 9, split="evaluation"), **MMC4, languages=("de",), drop_unstated=("language",))
    assert len(kept(outcome)) == 9


def test_the_page_shows_parameters_that_exist() -> None:
    shown = (ROOT / "docs/filters.md").read_text(encoding="utf-8")
    recipe = yaml.safe_load(shown.partition("```yaml")[2].partition("```")[0])["data"]
    found = DataParams(**recipe, documents={}, evaluation_documents={})
    assert {one.name: len(Filters(one, 0, ROOT).nothing.dropped) for one in found.corpora} == {
        "mmc4": 4,
        "laion_coco": 1,
        "laion_2b": 2,
        "okvqa": 0,
    }
    for name in {*FilterParams.model_fields} - {"drop_unstated"}:
        assert f"`{name}`" in shown
    assert all(f"| `{name}` |" in shown for name in ORDER)


def test_parameters_that_contradict_each_other_are_refused() -> None:
    for wrong in ({"caption_unit": "tokens"}, {"caption_tokenizer": "x"}, {"min_side_px": 9, "max_side_px": 8}, {"min_similarty": 0.2}):
        with pytest.raises(ValidationError):
            corpus(**wrong)
    counts: dict[str, Any] = {"documents": {}, "evaluation_documents": {}}
    with pytest.raises(ValidationError, match="names coco"):
        DataParams(source="corpora", corpora=(corpus(),), decontamination={"corpora": ("coco",)}, **counts)  # type: ignore[arg-type]


_scores = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=5)


@given(st.lists(st.tuples(_scores, st.sampled_from(["en", "de", ""]), st.booleans()), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_each_document_is_kept_or_dropped_once_in_any_order_and_the_funnel_adds_up(drafts: list[Any], random: Any) -> None:
    pages = [
        page(f"d{number}", scores, facts={"language": language} if language else {}, split="evaluation" if held else "train")
        for number, (scores, language, held) in enumerate(drafts)
    ]
    rules = corpus(**MMC4 | {"max_images": 2}, languages=("en",), drop_unstated=("similarity",))
    filters = Filters(rules, 3, Path("nowhere"))
    first = {one.document.id: filters.apply(one) for one in pages}
    shuffled = random.sample(pages, len(pages))
    assert {one.document.id: Filters(rules, 3, Path("nowhere")).apply(one) for one in shuffled} == first
    cut = random.randint(0, len(pages))
    parts = []
    for part in (shuffled[:cut], shuffled[cut:]):
        funnel = filters.nothing
        for one in part:
            funnel += Funnel.of("web", first[one.document.id])
        parts.append(Funnel.from_json(json.loads(json.dumps(funnel.as_json()))))
    funnel = parts[0] + parts[1]
    gone = [one for one in first.values() if isinstance(one, Dropped)]
    left = [one for one in first.values() if isinstance(one, Kept)]
    assert funnel.entered["web"].documents == len(pages) == len(gone) + len(left)
    assert funnel.entered["web"].images == sum(len(one.images) for one in pages)
    assert funnel.kept("web").documents == len(left)
    assert funnel.kept("web").images == sum(len(one.accepted.images) for one in left)
    lines = [line for one in first.values() for line in records(one)]
    assert sorted(line["document"] or "" for line in lines if line["image"] is None) == sorted(one.id for one in gone)
    assert len([line for line in lines if line["image"]]) == sum(len(one.losses) for one in first.values())
    rows = funnel_rows(funnel)
    assert [row["filter"] for row in rows] == ["language", "similarity", "image_count", "imageless", "single_image"]
    assert rows[-1]["documents_out"] == len(left)
    metrics = funnel_metrics(funnel)
    assert metrics["filters/web/documents_in"] - metrics["filters/web/documents_out"] == sum(
        value for name, value in metrics.items() if name.endswith("documents_dropped")
    )
    assert all(isinstance(value, float) for value in metrics.values())


def test_every_rule_has_its_place_in_the_funnel() -> None:
    rules = corpus(
        languages=("en",), max_nsfw=0.5, min_alignment=0.1, min_caption=10, min_side_px=1, min_aesthetic=1.0, min_sequence_score=0.0, **MMC4
    )
    names = [name for _, name in Filters(rules, 0, Path("nowhere")).nothing.dropped]
    assert ["takedown", *names, "contamination", "exact_duplicate", "near_duplicate"] == list(ORDER)


@pytest.mark.parametrize("kind", ["caption", "matched"])
def test_the_picture_is_before_its_sentence_half_of_the_time_by_a_coin_of_the_document(kind: str) -> None:
    tokenizer = Tokenizer(fit(["a small picture of a cat ."] * 9, 300))
    shape = preset("smoke", vocab_size=tokenizer.vocab_size).shape
    items = [(PNG, {}), "a cat .", (PNG, {}), "a small picture ."] if kind == "matched" else [(PNG, {}), "a cat ."]
    fields = {"references": ["a cat ."]} if kind == "caption" else {}

    def orders(seed: int, epoch: int) -> list[tuple[bool, ...]]:
        """Of 200 documents, whether each picture stands before the words that it belongs to."""
        collator = Collator(tokenizer, shape, 128, 0.0, seed)
        found = []
        for number in range(200):
            accepted = document(f"d{number}", items, kind, fields=fields)
            loaded = LoadedDocument(accepted.document, tuple(decode(data, 10_000) for data in accepted.images))
            ids = collator.batch([[Sample(encode(loaded, tokenizer, shape), epoch)]]).text_ids[0]
            words = [tokenizer.encode(text) for text in accepted.document.texts]
            begins = torch.nonzero(ids == tokenizer.boi)[:, 0].tolist()
            starts = [next(at for at in range(128) if ids[at : at + len(own)].tolist() == own) for own in words]
            found.append(tuple(begin < start for begin, start in zip(begins, starts, strict=True)))
        return found

    first = orders(0, 0)
    for place in range(len(first[0])):
        assert 72 < sum(order[place] for order in first) < 128, "four standard deviations around 100"
    assert first == orders(0, 0)
    assert first != orders(0, 1), "an epoch tosses again"
    assert first != orders(1, 0)
    if kind == "matched":
        assert set(first) == {(a, b) for a in (True, False) for b in (True, False)}, "each picture has a coin of its own"
