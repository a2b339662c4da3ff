"""The data card: what it adds up, in whatever order, and that nothing of a document gets out of its place on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparation_world import run
from tiny_line import SOURCE

from components.data.card.histograms import histogram
from components.data.card.page import make_card, render
from components.data.card.provenance import PROVENANCE_FILE, Provenance
from components.data.index import Index
from components.data.reader import DocumentReader
from components.params import DataParams

EXAMPLE = SOURCE / "examples" / "folder"


def told(found: Provenance, number: int, origin: str, **facts: float | str) -> None:
    found.add(f"s{number % 2}", 1, {"origin": origin, "licence": "CC0-1.0"} | facts)


ORIGINS = st.sampled_from(["natural", "automated", "human"])


@given(st.lists(st.tuples(ORIGINS, st.floats(-1, 1)), max_size=30), st.integers(0, 30), st.randoms())
def test_parts_add_up_to_the_same_whatever_their_order(drawn: list[tuple[str, float]], cut: int, random: object) -> None:
    whole, first, second = Provenance(), Provenance(), Provenance()
    for number, (origin, value) in enumerate(drawn):
        told(whole, number, origin, alignment=value)
    for number, (origin, value) in reversed(list(enumerate(drawn))):
        told(first if number < cut else second, number, origin, alignment=value)
    second.merge(first)
    assert second.to_dict() == whole.to_dict() == Provenance.from_dict(json.loads(json.dumps(whole.to_dict()))).to_dict()


def test_mean_and_deviation_are_those_of_the_documents_that_state_the_number() -> None:
    found = Provenance()
    for number, value in enumerate((0.1, 0.3, 0.5)):
        told(found, 2 * number, "human", alignment=value, language="de")
    told(found, 6, "human", alignment="high")
    share = found.shares["s0", "human"]
    assert share.alignment.mean == pytest.approx(0.3) and share.alignment.deviation == pytest.approx(0.163299, abs=1e-6)
    assert share.documents == 4 and share.alignment.count == 3 and share.cost_usd.mean is None
    assert share.languages == {"de": 3, "not stated": 1}


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=200))
def test_every_value_is_in_the_bin_that_says_so(values: list[int]) -> None:
    bins = histogram(values)
    assert len(bins) <= 16 and sum(one.count for one in bins) == len(values)
    assert all(one.count == sum(one.low <= value < one.high for value in values) for one in bins)


def test_the_card_of_a_prepared_corpus_counts_and_shows_it(tmp_path: Path) -> None:
    (tmp_path / "data/input").mkdir(parents=True)
    (tmp_path / "data/input/folder").symlink_to(EXAMPLE)
    run(tmp_path, DataParams(documents={}, evaluation_documents={}, source="folder", path=str(EXAMPLE)))
    index = Index(tmp_path / "outputs/index")
    found = Provenance()
    told(found, 0, "automated", alignment=0.25)
    (index.folder / PROVENANCE_FILE).write_text(json.dumps(found.to_dict()))
    row = {"corpus": "<b>web</b>", "filter": "no image", "documents_in": 9, "documents_dropped": 3, "images_in": 0, "images_dropped": 0}
    (index.folder / "funnel.json").write_text(json.dumps({"rows": [row]}))
    refused = [json.dumps({"where": f"a:{number}", "reason": f"image {number}.png is no file"}) for number in range(4)]
    refused.append(json.dumps({"where": "b:1", "reason": "there is no picture", "missing": True}))
    (index.folder / "quarantine.jsonl").write_text("\n".join(refused))
    reader = DocumentReader(index, tmp_path / "outputs/shards")
    card = make_card(index, reader, "Version 1")
    reader.close()
    held = [index.rows(split, kind) for split in ("train", "evaluation") for kind in index.kinds(split)]
    assert sum(group.documents for group in card.groups) == sum(map(len, held))
    assert card.reasons == (("image … is no file", 4),)
    page = render(card)
    assert "4 quarantined, 1 missing" in page
    assert "&lt;b&gt;web&lt;/b&gt;" in page and "<b>web" not in page
    assert page.count("data:image/png") == sum(bool(part.png) for sample in card.samples for part in sample.parts) > 20
    assert "0.25" in page and "http" not in page.replace("http-equiv", "")
