"""Rules that need all documents: perceptual hashes, near pairs, duplicates and evaluation sets, on real pictures and end to end."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filter_world import LIMITS, Prepared, corpus, document, jpeg, pair, picture, prepare
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from components.data.documents import CorpusError
from components.data.filters.funnel import Funnel, funnel_rows
from components.data.filters.grams import grams, words
from components.data.filters.hamming import pairs_among, pairs_between
from components.data.filters.perceptual import perceptual_hash
from components.data.filters.signatures import Signer
from components.data.filters.whole import whole_pass
from components.data.pictures import PictureError
from components.data.sources.folder import FolderSource
from components.data.sources.source import Accepted
from components.params import CorpusParams, DataParams

LONG = "the quick brown fox jumps over the lazy dog while nine small cats watch from a warm roof"
MIDDLE = "two red boats rest on a quiet lake"


def data(*corpora: CorpusParams, **more: Any) -> DataParams:
    return DataParams(source="corpora", corpora=corpora, documents={}, evaluation_documents={}, **more)


def apart(one: bytes, two: bytes) -> int:
    return (perceptual_hash(one, 1_000_000) ^ perceptual_hash(two, 1_000_000)).bit_count()


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    return {name: Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}


def variants(image: Image.Image) -> dict[str, bytes]:
    """The same picture as other sites would show it."""
    width, height = image.size
    png = io.BytesIO()
    image.save(png, "PNG")
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = io.BytesIO()
    image.rotate(90, expand=True).save(sideways, "JPEG", exif=turned)
    return {
        "quality": jpeg(image, 20),
        "half": jpeg(image.resize((width // 2, height // 2))),
        "thumbnail": jpeg(image.resize((128, 86))),
        "square": jpeg(image.resize((224, 224))),
        "grey": jpeg(image.convert("L")),
        "png": png.getvalue(),
        "cmyk": jpeg(image.convert("CMYK"), 95),
        "sideways": sideways.getvalue(),
        "cropped": jpeg(image.crop((width // 50, height // 50, width - width // 50, height - height // 50))),
    }


def test_a_photograph_keeps_its_hash_in_other_forms_and_others_have_others(photographs: dict[str, Image.Image]) -> None:
    originals = {name: jpeg(image, 90) for name, image in photographs.items()}
    for name, image in photographs.items():
        assert {form: apart(originals[name], data) for form, data in variants(image).items() if apart(originals[name], data) > 6} == {}
    assert apart(originals["china"], originals["flower"]) > 20
    assert apart(originals["china"], jpeg(photographs["china"].transpose(Image.Transpose.FLIP_LEFT_RIGHT))) > 12
    assert len({perceptual_hash(picture(seed), 10_000) for seed in range(50)}) == 50
    with pytest.raises(PictureError):
        perceptual_hash(b"\xff\xd8 cut", 10_000)


_near = st.lists(st.tuples(st.integers(0, 7), st.lists(st.integers(0, 63), max_size=9)), max_size=25)


@given(_near, st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_no_near_pair_is_missed_and_none_is_invented(drafts: list[tuple[int, list[int]]], distance: int) -> None:
    rng = np.random.default_rng(5)
    centres = rng.integers(0, 2**64, 8, dtype=np.uint64)
    values = [int(centres[centre]) ^ sum(1 << bit for bit in set(bits)) for centre, bits in drafts]
    hashes = np.unique(np.array([*values, 0, 2**64 - 1], np.uint64))
    one, two = pairs_among(hashes, distance)
    own = hashes.tolist()
    expected = [(i, j) for i in range(len(own)) for j in range(i + 1, len(own)) if (own[i] ^ own[j]).bit_count() <= distance]
    assert list(zip(one.tolist(), two.tolist(), strict=True)) == expected
    left, right = hashes[::2], hashes[: len(hashes) // 2 + 1]
    found = zip(*(side.tolist() for side in pairs_between(left, right, distance)), strict=True)
    near = [(i, j) for i, a in enumerate(left.tolist()) for j, b in enumerate(right.tolist()) if (a ^ b).bit_count() <= distance]
    assert list(found) == near


def test_near_pairs_are_found_among_many() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, 60_000, dtype=np.uint64)
    flips = np.zeros(200, np.uint64)
    for _ in range(6):
        flips |= np.uint64(1) << rng.integers(0, 64, 200).astype(np.uint64)
    every = np.unique(np.concatenate([hashes, hashes[:200] ^ flips]))
    one, two = pairs_among(every, 6)
    assert np.isin(hashes[:200], np.concatenate([every[one], every[two]])).all()
    assert (np.bitwise_count(every[one] ^ every[two]) <= 6).all()
    assert len(one) < 210, "chance brings hardly any"


def test_what_is_nearly_all_alike_is_an_error_and_not_the_end_of_memory() -> None:
    alike = np.unique(np.bitwise_or.reduce(np.uint64(1) << np.random.default_rng(2).integers(0, 64, (2, 900)).astype(np.uint64)))
    with pytest.raises(CorpusError, match="lower the bits"):
        pairs_among(alike, 4, limit=1000)
    assert len(pairs_among(alike, 4)[0]) == len(alike) * (len(alike) - 1) // 2


def test_words_are_compared_without_case_signs_and_width() -> None:
    assert words("A cat, ｓitting: l'été!") == ["a", "cat", "sitting", "l", "été"]
    assert words("猫が座る") == ["猫", "が", "座", "る"]
    thirteen = " ".join(LONG.split()[2:15])
    assert np.isin(grams([thirteen.upper()], 13, 8), grams([LONG], 13, 8)).tolist() == [True]
    assert len(grams([LONG], 13, 8)) == len(LONG.split()) - 12
    assert not np.isin(grams([" ".join(thirteen.split()[:-1])], 13, 8), grams([LONG], 13, 8)).any()
    assert len(grams(["seven words are too few to count"], 13, 8)) == 0
    assert grams([MIDDLE], 13, 8).tolist() == grams([MIDDLE.title() + "!"], 13, 8).tolist() != grams([MIDDLE + " a"], 13, 8).tolist()


def run(parameters: DataParams, parts: dict[str, list[Sequence[Accepted]]], folder: Path) -> Prepared:
    folder.mkdir(exist_ok=True, parents=True)
    return prepare(parameters, parts, folder)


def test_exact_duplicates_leave_the_lowest_id(tmp_path: Path) -> None:
    same = [pair(key, "a cat .", picture(0)) for key in ("c", "a", "b")]
    others = [pair("d", "a cat!", picture(0)), pair("e", "a cat .", picture(1)), pair("f", "a cat .", picture(0), split="evaluation")]
    result = run(data(corpus(exact_duplicates=True)), {"web": [same, others]}, tmp_path)
    assert result.kept["web"] == ["a", "d", "e", "f"]
    assert json.loads(result.dropped["web"][0]) == {
        "document": "b",
        "image": None,
        "filter": "exact_duplicate",
        "reason": "the same texts and pictures as a",
    }


def test_near_duplicates_of_photographs_are_dropped_and_named(photographs: dict[str, Image.Image], tmp_path: Path) -> None:
    own = [pair(f"{name}-0", "it .", jpeg(image, 90)) for name, image in photographs.items()]
    own += [pair(f"{name}-{form}", "it .", data) for name, image in photographs.items() for form, data in variants(image).items()]
    result = run(data(corpus(near_duplicate_bits=6)), {"web": [own]}, tmp_path)
    assert result.kept["web"] == ["china-0", "flower-0"]
    assert all("one of china-0" in line or "one of flower-0" in line for line in result.dropped["web"])


def test_a_page_goes_when_its_share_of_pictures_is_elsewhere(tmp_path: Path) -> None:
    logo, others = (picture(0), {}), [(picture(seed), {}) for seed in (1, 2, 3)]
    pages = [document("a", [logo, "one .", others[0]]), document("b", [logo, "two .", others[1]]), document("c", [logo, logo, "x .", logo])]
    assert run(data(corpus(near_duplicate_bits=4)), {"web": [pages]}, tmp_path).kept["web"] == ["a", "b"]
    assert run(data(corpus(near_duplicate_bits=4, near_duplicate_share=0.5)), {"web": [pages]}, tmp_path).kept["web"] == ["a"]


def test_questions_about_one_picture_are_no_duplicates_where_the_words_count(tmp_path: Path) -> None:
    asked = [pair("a", "what is it ?", picture(0)), pair("b", "where is it ?", picture(0)), pair("c", "What is it?", picture(0))]
    assert run(data(corpus(near_duplicate_bits=4, near_duplicate_same_text=True)), {"web": [asked]}, tmp_path).kept["web"] == ["a", "b"]
    assert run(data(corpus(near_duplicate_bits=4)), {"web": [asked]}, tmp_path).kept["web"] == ["a"]


def held(key: str, text: str, image: bytes) -> Accepted:
    return pair(key, text, image, split="evaluation")


def test_what_an_evaluation_set_shows_or_tells_is_not_trained_on(photographs: dict[str, Image.Image], tmp_path: Path) -> None:
    training = [
        pair("seen", "something else .", variants(photographs["china"])["half"]),
        pair("told", f"They say: {LONG.title()}!", picture(1)),
        pair("equal", MIDDLE + ".", picture(2)),
        pair("within", MIDDLE + " and more", picture(3)),
        pair("short", "a cat sits .", picture(4)),
        pair("template", "please answer the question with a single word or a phrase and nothing else at all", picture(5)),
        pair("clean", "nobody asks for this .", picture(6)),
    ]
    asked = [held("q0", "a cat sits .", jpeg(photographs["china"])), held("q1", LONG, picture(11)), held("q2", MIDDLE, picture(12))]
    asked += [held(f"t{number}", f"{training[5].document.texts[0]} number {number}", picture(20 + number)) for number in range(11)]
    corpora = [corpus("web"), corpus("coco").model_copy(update={"split": "evaluation"})]
    parameters = data(*corpora, decontamination={"corpora": ("coco",)})
    result = run(parameters, {"web": [training], "coco": [asked]}, tmp_path)
    assert result.kept["web"] == ["clean", "short", "template", "within"]
    assert len(result.kept["coco"]) == len(asked)
    named = {line["document"]: line["reason"] for line in map(json.loads, result.dropped["web"])}
    assert named["seen"].endswith("from one of coco/q0")
    assert (named["told"], named["equal"]) == ("has words of coco/q1", "has words of coco/q2")
    strict = data(*corpora, decontamination={"corpora": ("coco",), "common_documents": 11})
    assert "template" not in run(strict, {"web": [training], "coco": [asked]}, tmp_path / "b").kept["web"]


def test_an_evaluation_set_that_is_elsewhere_is_named_by_its_file(tmp_path: Path) -> None:
    rules = {"decontamination": {"files": ("okvqa.safetensors",)}}
    parameters = data(corpus("web"), **rules)
    signer = Signer.of(parameters)
    signer.save(tmp_path / "okvqa.safetensors", [signer.signature(held("q", LONG, picture(9)))])
    result = run(parameters, {"web": [[pair("a", LONG, picture(1)), pair("b", "else .", picture(2))]]}, tmp_path)
    assert result.kept["web"] == ["b"]
    assert "okvqa/q" in result.dropped["web"][0]


def test_files_of_signatures_are_not_trusted(tmp_path: Path) -> None:
    parameters = data(corpus("web"), decontamination={"files": ("x.safetensors",)})
    path = tmp_path / "x.safetensors"
    for bad in (b"", b"\xff" * 8, b"PK\x03\x04 no"):
        path.write_bytes(bad)
        with pytest.raises(CorpusError, match="no file of signatures"):
            whole_pass(parameters, {}, tmp_path)
    Signer(5, 2, 10_000).save(path, [])
    with pytest.raises(CorpusError, match="was made with"):
        whole_pass(parameters, {}, tmp_path)
    signer = Signer.of(parameters)
    signer.save(path, [signer.signature(held("q", LONG, picture(9)))])
    whole = path.read_bytes()
    signer.save(path, [signer.signature(pair("t", LONG, picture(9)))])
    with pytest.raises(CorpusError, match="no evaluation documents"):
        whole_pass(parameters, {}, tmp_path)
    path.write_bytes(whole.replace(b'"dtype":"I64"', b'"dtype":"F64"'))
    with pytest.raises(CorpusError, match="not what a file of signatures holds"):
        whole_pass(parameters, {}, tmp_path)
    with pytest.raises(CorpusError, match="leads out"):
        whole_pass(data(corpus("web"), decontamination={"files": ("../x.safetensors",)}), {}, tmp_path / "inside")
    with pytest.raises(CorpusError, match="no evaluation documents"):
        whole_pass(data(corpus("web"), decontamination={"corpora": ("web",)}), {}, tmp_path)


def test_the_same_documents_have_the_same_file(tmp_path: Path) -> None:
    signer = Signer.of(data(corpus("web")))
    for name in ("a", "b"):
        signer.save(tmp_path / name, [signer.signature(pair(key, LONG, picture(1))) for key in "xyz"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


_drafts = st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=2), st.integers(0, 2), st.booleans()), max_size=10)


@given(_drafts, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_order_and_parts_change_nothing(tmp_path_factory: pytest.TempPathFactory, drafts: list[Any], random: Any) -> None:
    documents = [
        document(
            f"d{number}",
            [*((picture(seed, 8, 8), {"similarity": seed / 4}) for seed in seeds), f"{LONG} {text}" if text else MIDDLE],
            split="evaluation" if held_out else "train",
        )
        for number, (seeds, text, held_out) in enumerate(drafts)
    ]
    guard = document("guard", [(picture(3), {}), "something that nobody says in any other place ."], split="evaluation")
    rules = corpus("web", exact_duplicates=True, near_duplicate_bits=4, min_similarity=0.1, near_duplicate_share=0.5)
    parameters = data(rules, decontamination={"corpora": ("web",)})
    folder = tmp_path_factory.mktemp("parts")
    once = run(parameters, {"web": [[*documents, guard]]}, folder / "once")
    shuffled = random.sample([*documents, guard], len(documents) + 1)
    cut = sorted(random.randint(0, len(shuffled)) for _ in range(2))
    parts = [shuffled[: cut[0]], shuffled[cut[0] : cut[1]], shuffled[cut[1] :]]
    assert run(parameters, {"web": parts}, folder / "parts") == once
    gone = [line["document"] for line in map(json.loads, once.dropped["web"]) if line["image"] is None]
    assert sorted([*gone, *once.kept["web"]]) == sorted(one.document.id for one in [*documents, guard])
    assert once.funnel.entered["web"].documents - once.funnel.kept("web").documents == len(gone)
    assert funnel_rows(once.funnel)[-1]["images_out"] == once.funnel.kept("web").images


def test_a_folder_of_documents_from_its_reader_to_its_funnel(photographs: dict[str, Image.Image], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = []
    for number, form in enumerate(variants(photographs["flower"]).values()):
        (tmp_path / f"in/{number}").write_bytes(form)
        caption = "tiny" if number == 3 else f"a flower, told in sentence {number}"
        items = [{"type": "image", "id": "0", "path": str(number)}, {"type": "text", "text": caption}]
        values = {"id": f"f{number}", "source": "s", "kind": "caption", "split": "train", "licence": "CC0-1.0", "origin": "human"}
        lines.append(json.dumps(values | {"items": items, "fields": {"references": [caption]}}))
    (tmp_path / "in/documents.jsonl").write_text("\n".join(lines))
    rules = corpus("web", min_caption=10, near_duplicate_bits=6)
    source = FolderSource(rules, tmp_path / "in", LIMITS)
    read = [one for unit in source.units() for one in source.documents(unit)]
    assert all(isinstance(one, Accepted) for one in read)
    result = run(data(rules), {"web": [[one for one in read if isinstance(one, Accepted)]]}, tmp_path)
    assert result.kept["web"] == ["f0"]
    assert [(row["filter"], row["documents_in"], row["documents_dropped"]) for row in funnel_rows(result.funnel)] == [
        ("caption_length", 9, 1),
        ("near_duplicate", 8, 7),
    ]
    assert Funnel.from_json(result.funnel.as_json()) == result.funnel
