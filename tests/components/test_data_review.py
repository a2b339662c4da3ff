"""Human decisions about documents: what they make of them, what is refused, what survives a kill, who may speak to the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from components.data.documents import CorpusError, Document, DocumentError, document_from
from components.data.review.decisions import Decision, DecisionLog, decided
from components.data.review.review import Review
from components.data.review.server import make_app
from components.data.sources.folder import FolderSource
from components.data.sources.source import Accepted, Limits
from components.params import CorpusParams

EXAMPLE = Path(__file__).parents[2] / "examples" / "folder"
TOKEN = "spoken-aloud"
STORY: dict[str, Any] = {
    "id": "tale", "source": "mine", "kind": "interleaved", "split": "train", "licence": "CC0-1.0", "origin": "automated",
    "items": [
        {"type": "text", "text": "one", "loss": False}, {"type": "image", "id": "0", "path": "0.png"},
        {"type": "text", "text": "two"}, {"type": "image", "id": "1", "path": "1.png", "facts": {"similarity": 0.5}},
    ],
}  # fmt: skip


def decision(action: str = "edit", **values: Any) -> Decision:
    return Decision.model_validate({"document": "tale", "action": action, "by": "me"} | values)


def edit(*items: dict[str, Any]) -> Decision:
    return decision(items=list(items))


def tale(**changes: Any) -> Document:
    return document_from(STORY | changes)


def test_an_edit_moves_pictures_and_rewrites_texts_and_keeps_what_else_is_known() -> None:
    after = decided(tale(), edit({"was": 3}, {"text": "one!", "was": 0}, {"text": "new"}, {"was": 1}))
    assert after is not None and after.origin == "human" and after.facts == {"reviewed": "edit", "reviewed_by": "me"}
    assert [getattr(item, "text", None) or item.id for item in after.items] == ["1", "one!", "new", "0"]  # type: ignore[union-attr]
    assert after.images[0].facts == {"similarity": 0.5} and after.items[1].loss is False
    assert decided(tale(), decision("reject")) is None
    assert decided(tale(), decision("undecided")) == tale()
    accepted = decided(tale(), decision("accept"))
    assert accepted is not None and accepted.items == tale().items and accepted.origin == "automated"


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([{"was": 9}], "no picture"),
        ([{"was": 0}], "no picture"),
        ([{"text": "x", "was": 1}], "no text"),
        ([{"was": 1}, {"was": 1}], "twice"),
    ],
)
def test_an_edit_that_makes_no_document_is_refused(items: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(DocumentError, match=problem):
        decided(tale(), edit(*items))


def test_what_is_given_stays_before_what_is_asked() -> None:
    asked = tale(kind="question", fields={"question": "one", "answer": "two"}, prompt_items=2)
    with pytest.raises(DocumentError, match="must stay before"):
        decided(asked, edit({"text": "two", "was": 2}, {"text": "one", "was": 0}, {"was": 1}))
    after = decided(asked, edit({"was": 1}, {"text": "one", "was": 0}, {"text": "two", "was": 2}))
    assert after is not None and after.prompt_items == 2
    with pytest.raises(ValidationError, match="exactly with the action"):
        decision("accept", items=[{"text": "x"}])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["accept", "reject", "undecided"])), max_size=12), st.integers(0, 200))
def test_the_last_word_counts_and_a_kill_costs_at_most_the_line_it_cut(spoken: list[tuple[str, Any]], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = DecisionLog(Path(folder))
        for name, action in spoken:
            log.add(Decision(document=name, action=action, by="me"))
        assert {name: one.action for name, one in log.latest().items()} == dict(spoken)
        if spoken:
            whole = log.path.read_bytes()
            log.path.write_bytes(whole[: max(0, len(whole) - cut)])
            before = log.latest()
            log.add(Decision(document="d", action="accept", by="me"))
            assert log.latest() == before | {"d": Decision(document="d", action="accept", by="me")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def page(tmp_path: Path, folder: Path) -> TestClient:
    app = make_app(Review(folder, tmp_path / "kept"), tmp_path / "reviewed", "a person", TOKEN)
    return TestClient(app, base_url="http://127.0.0.1:8000", headers={"x-token": TOKEN})


def test_a_review_becomes_a_folder_that_prepare_reads(page: TestClient, tmp_path: Path, folder: Path) -> None:
    listed = page.get("/documents").json()
    ids = [one["id"] for one in listed]
    shown = page.get(f"/documents/{ids[0]}").json()["document"]
    numbered = [
        {"was": n} if item["type"] == "image" else {"was": n, "text": item["text"] + " indeed"} for n, item in enumerate(shown["items"])
    ]
    for body in (
        {"document": ids[0], "action": "edit", "items": numbered, "by": "somebody else"},
        {"document": ids[1], "action": "reject", "by": "x"},
        {"document": ids[2], "action": "accept", "by": "x"},
    ):
        assert page.post("/decisions", json=body).status_code == 200
    again = Review(folder, tmp_path / "kept")
    assert again.log.latest()[ids[0]].by == "a person"
    done = page.post("/finish", json={"keep_undecided": False}).json()
    assert (done["documents"], done["accepted"], done["edited"], done["rejected"]) == (2, 1, 1, 1)
    source = FolderSource(CorpusParams(name="reviewed", format="documents"), tmp_path / "reviewed", Limits(1_000_000, 10_000, 20))
    found = list(source.documents(source.units()[0]))
    assert [one.document.id for one in found if isinstance(one, Accepted)] == [ids[0], ids[2]]
    edited = next(one.document for one in found if isinstance(one, Accepted))
    assert edited.origin == "human" and edited.texts[0].endswith("indeed")
    assert page.post("/finish", json={"keep_undecided": True}).status_code == 422


def test_only_who_has_the_token_and_names_this_machine_is_answered(page: TestClient) -> None:
    for request in (
        {"headers": {"x-token": "guess"}},
        {"headers": {"x-token": ""}},
        {"headers": {"host": "evil.example:8000"}},
    ):
        assert page.get("/documents", **request).status_code == 403
        assert page.post("/finish", json={"keep_undecided": True}, **request).status_code == 403
    assert page.get("/", params={"token": TOKEN}, headers={"x-token": ""}).status_code == 200
    assert "nonce-" in page.get("/").headers["content-security-policy"]


def test_hostile_requests_are_named_and_leave_nothing(page: TestClient, tmp_path: Path) -> None:
    assert page.get("/documents/../../etc/passwd").status_code == 404
    assert "no document" in page.get("/documents/none").json()["detail"]
    name = page.get("/documents").json()[0]["id"]
    assert page.get(f"/pictures/{name}/99").status_code == 422
    assert page.post("/decisions", json={"document": "none", "action": "accept", "by": "x"}).status_code == 422
    assert page.post("/decisions", json={"document": name, "action": "burn", "by": "x"}).status_code == 422
    assert not list((tmp_path / "kept").rglob("decisions.jsonl"))


def test_a_folder_that_is_no_corpus_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        Review(tmp_path / "nothing", tmp_path / "kept")
    lines = (folder / "documents.jsonl").read_text().splitlines()
    (folder / "documents.jsonl").write_text("\n".join([lines[0], lines[0]]))
    with pytest.raises(CorpusError, match="used before"):
        Review(folder, tmp_path / "kept")
    (folder / "documents.jsonl").write_text(json.dumps({"id": "a"}))
    with pytest.raises(CorpusError, match=r"documents.jsonl:1: source"):
        Review(folder, tmp_path / "kept")
