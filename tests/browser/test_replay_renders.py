"""The page of a replayed step as people see it: its pictures are there, nothing is fetched, nothing hangs over."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, Request
from sklearn.datasets import load_digits

from components.replay import Compared, Replayed
from components.replay_page import render


def scan(index: int) -> str:
    written = io.BytesIO()
    Image.fromarray((load_digits().images[index] / 16 * 255).astype(np.uint8)).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def replayed() -> Replayed:
    words = [["<s>", None], [" a", 0.2], [" 3", 5.1], [" is", 0.0], [" drawn", 0.4], ["</s>", 0.1]]
    drawn = {"png": scan(3), "loss": 0.25, "timestep": 0.5, "dropped": True}
    given = {"png": scan(4), "loss": None, "timestep": None, "dropped": False}
    document = {
        "documents": [{"id": "train-caption-000003", "kind": "caption", "source": "digits", "epoch": 0, "part": [3, -1]}],
        "items": [{"tokens": words}, drawn, given],
        **{"text_loss": 5.8, "targets": 5, "image_loss": 0.25, "pictures": 1},
    }
    rows = tuple({"name": "caption", "rank": rank, "documents": [document] * 3} for rank in range(2))
    norms = {f"mm_decoder.layers.{layer}.self_attn.q_proj.weight": 0.1 * layer for layer in range(12)} | {"soi_token": 2.0}
    compared = (Compared(7, "loss", 5.802585092994046, 5.802585092994046), Compared(7, "grad_norm", 1.0, 1.0000000000000002))
    return Replayed("20260101-000000-abcd", "pretrain", 7, 6, 2, 12.0, compared, rows, norms, ("the source here is another",))


def test_the_page_shows_pictures_and_fetches_nothing(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "replay.html"
    file.write_text(render(replayed()), encoding="utf-8")
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(file.as_uri())
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.locator("#documents img").count() == 12
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.locator(".pill.bad").inner_text() == "1 of 2 logged numbers differ"
    red = page.locator(".token", has_text=" 3").first.evaluate("node => getComputedStyle(node).backgroundColor")
    assert red != page.locator(".token", has_text=" is").first.evaluate("node => getComputedStyle(node).backgroundColor")
    assert page.locator("#modules details").count() == 13, "each layer, and what stands alone"
    page.locator("#modules summary").first.click()
    assert page.get_by_text("self_attn.q_proj.weight").first.is_visible()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
