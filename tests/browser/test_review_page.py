"""The review page as a person uses it: read, move a picture, rewrite a text, accept, reject, write the new version."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from components.data.review.review import Review
from components.data.review.serve import open_desk

EXAMPLE = Path(__file__).parents[2] / "examples" / "folder"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    shutil.copytree(EXAMPLE, tmp_path / "corpus")
    with open_desk(Review(tmp_path / "corpus", tmp_path / "kept"), tmp_path / "reviewed", "a person") as desk:
        thread = threading.Thread(target=desk.run)
        thread.start()
        yield desk.address
        desk.server.should_exit = True
        thread.join(20)


def test_a_person_reviews_documents(page: Page, address: str, tmp_path: Path) -> None:
    before = [json.loads(line) for line in (EXAMPLE / "documents.jsonl").read_text().splitlines()]
    page.goto(address)
    expect(page.locator("#name")).to_have_text(before[0]["id"])
    assert page.eval_on_selector("#items img", "picture => picture.decode().then(() => picture.naturalWidth)") > 0
    page.keyboard.press("a")
    expect(page.locator("#name")).to_have_text(before[1]["id"])
    page.keyboard.press("r")  # and, before the next document has come, another is chosen
    story = next(one for one in before if one["kind"] == "story")
    page.locator("#list button", has_text=story["id"]).first.click()
    expect(page.locator("#name")).to_have_text(story["id"])
    last = page.locator("#items .item").last
    last.locator("button[title='move up']").click()
    page.locator("#items textarea").last.fill("and so it ended <b>.")
    page.locator("#save").click()
    expect(page.locator("#message")).to_have_text(f"{story['id']}: edit")
    expect(page.locator("#progress")).to_have_text(f"3 of {len(before)} decided")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.locator("#finish").click()
    expect(page.locator("#message")).to_contain_text("2 documents written")
    after = [json.loads(line) for line in (tmp_path / "reviewed/documents.jsonl").read_text().splitlines()]
    assert [one["id"] for one in after] == [before[0]["id"], story["id"]]
    assert [item["type"] for item in after[1]["items"]][-2:] == [story["items"][-1]["type"], story["items"][-2]["type"]]
    assert "and so it ended <b>." in [item.get("text") for item in after[1]["items"]] and after[1]["origin"] == "human"
    assert all((tmp_path / "reviewed" / item["path"]).is_file() for one in after for item in one["items"] if item["type"] == "image")


def test_without_the_token_nothing_is_shown(page: Page, address: str) -> None:
    answer = page.goto(address.partition("?")[0])
    assert answer is not None and answer.status == 403
