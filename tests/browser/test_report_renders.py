"""The report as people see it: every picture is there, and nothing is fetched for it."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page
from sklearn.datasets import load_digits

from components.evaluation.estimates import Estimate
from components.evaluation.illustration import Illustration, Row, cell
from components.report import Losses, ReportData, StageRow, TaskMetrics, render


def scan(index: int) -> bytes:
    written = io.BytesIO()
    Image.fromarray((load_digits().images[index] / 16 * 255).astype(np.uint8)).save(written, "PNG")
    return written.getvalue()


def report() -> str:
    row = Row(label="truth", cells=tuple(cell(f"digit {index}", scan(index)) for index in range(5)))
    task = TaskMetrics(
        task="story",
        metrics={"picture_accuracy": Estimate(value=0.61, low=0.5, high=0.7, n=60)},
        illustrations=(Illustration(title="A story", rows=(row, row)),),
    )
    return render(
        ReportData(
            run_id="a-run",
            state="Completed",
            started=datetime(2026, 1, 1, tzinfo=UTC),
            wall_seconds=60,
            stages=(StageRow(name="prepare", state="Completed", seconds=2, body_seconds=1),),
            losses=(Losses(stage="pretrain", name="text_loss", points=((0, 3.0), (1, 2.0), (2, 1.5))),),
            tasks=(task,),
        )
    )


def test_pictures_and_curves_render_without_any_request(page: Page, report_page: Path) -> None:
    report_page.write_text(report(), encoding="utf-8")
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(report_page.as_uri())
    widths = page.eval_on_selector_all("img", "pictures => pictures.map(one => [one.naturalWidth, one.getBoundingClientRect().width])")
    assert len(widths) >= 10
    assert all(natural > 0 and shown > 0 for natural, shown in widths)
    curves = page.eval_on_selector_all("svg.chart", "charts => charts.map(one => one.getBoundingClientRect().height)")
    assert curves
    assert all(height > 20 for height in curves)
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page is wider than the window"
