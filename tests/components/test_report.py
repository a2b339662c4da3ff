import csv
import html.parser
import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.datasets import load_digits

from components.data.pictures import encode_png
from components.evaluation.estimates import Estimate, Unavailable, write_metrics
from components.evaluation.html import line_chart, round_ticks, smoothed
from components.evaluation.illustration import Illustration, Row, cell, read_illustrations, sheet, write_illustrations
from components.report import (
    Decision,
    Identity,
    Losses,
    ReportData,
    StageRow,
    TaskMetrics,
    Training,
    body_seconds,
    collect,
    duration,
    render,
)
from components.run.events import EventWriter
from components.run.paths import Paths, RunFiles


def scan(index: int) -> bytes:
    grey = (load_digits().images[index] / 16 * 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    return encode_png(np.stack([grey] * 3, axis=-1))


def story() -> Illustration:
    frames = [(f"then a {digit} comes northwest", scan(digit)) for digit in range(5)]
    truth = Row(label="truth", cells=tuple(cell(text, png) for text, png in frames))
    ours = Row(label="story model", cells=tuple(cell(text, png, "wrong" if i == 3 else "right") for i, (text, png) in enumerate(frames)))
    return Illustration(title="Story 17", rows=(truth, ours), note="4 of 5 pictures recognised")


def report_data() -> ReportData:
    rng = np.random.default_rng(0)
    steps = np.arange(0, 400, 5)

    def curve(start: float, end: float, steps: np.ndarray) -> tuple[tuple[float, float], ...]:
        values = end + (start - end) * np.exp(-steps / (steps[-1] / 5)) * (1 + 0.15 * rng.normal(size=len(steps)))
        return tuple(zip(steps.tolist(), values.tolist(), strict=True))

    tasks = (
        TaskMetrics(
            task="vqa",
            metrics={
                "question_accuracy": Estimate(value=0.863, low=0.826, high=0.893, n=400, chance=0.1),
                "two_picture_accuracy": Estimate(value=0.61, low=0.541, high=0.675, n=200, chance=0.5),
                "cider": Unavailable(unavailable="there is no `java` on PATH; install a Java runtime"),
            },
            illustrations=(
                Illustration(
                    title="What digit is northwest?",
                    rows=(
                        Row(label="prompt", cells=(cell("", scan(7)), cell("what digit is northwest?"))),
                        Row(label="answer", cells=(cell("7", None, "right"),)),
                    ),
                ),
            ),
        ),
        TaskMetrics(task="segmentation", metrics={"miou": Estimate(value=0.562, low=0.53, high=0.59, n=100, ceiling=0.97)}),
        TaskMetrics(
            task="story",
            metrics={
                "picture_accuracy": Estimate(value=0.66, low=0.58, high=0.72, n=160, chance=0.1, ceiling=0.981),
                "zero_shot_picture_accuracy": Estimate(value=0.41, low=0.33, high=0.49, n=160, chance=0.1, ceiling=0.981),
            },
            illustrations=(story(), story()),
        ),
    )
    return ReportData(
        run_id="2026-11-24-14-03-brisk-otter",
        state="Completed",
        started=datetime(2026, 11, 24, 14, 3, tzinfo=UTC),
        wall_seconds=318,
        identities=(
            Identity(
                tool="Prefect", name="brisk-otter · 5c1e0f7a-90d1-4b0e-8f5e-3f6f1f6f8f01", show="mmfs up, then http://127.0.0.1:4200/runs"
            ),
            Identity(tool="MLflow", name="3f1c9b0d0c5a4a6f9e3b", show="mlflow ui"),
            Identity(tool="DVC", name="brisk-otter", show="dvc exp show"),
        ),
        stages=(
            StageRow(name="version", state="Completed", seconds=6.2, body_seconds=3.1),
            StageRow(name="prepare", state="Cached", seconds=2.9),
            StageRow(name="pretrain", state="Completed", seconds=121, body_seconds=110),
            StageRow(name="finetune@vqa", state="Completed", seconds=31, body_seconds=24),
            StageRow(name="evaluate@vqa", state="Failed", seconds=14, body_seconds=9, message="out of memory"),
        ),
        losses=(
            Losses(stage="pretrain", name="text_loss", points=curve(5.9, 0.9, steps)),
            Losses(stage="pretrain", name="image_loss", points=curve(1.02, 0.11, steps)),
            Losses(stage="finetune@vqa", name="text_loss", points=curve(0.9, 0.5, steps[:12])),
        ),
        validation=(Losses(stage="pretrain", name="story/text_loss", points=curve(5.0, 1.1, steps[::10])),),
        trainings=(
            Training(stage="pretrain", split={"data": 0.002, "forward": 0.031, "backward": 0.05}, goodput=0.912, mfu=0.43),
            Training(stage="finetune@vqa", split={"optimizer": 0.01}),
        ),
        tasks=tasks,
        decisions=(
            Decision(
                task="vqa",
                model="mmfs-vqa",
                version=3,
                decision="promoted",
                metric="question_accuracy",
                reasons=("0.863 ≥ minimum 0.5", "better than version 2, p = 0.012"),
            ),
            Decision(
                task="segmentation",
                model="mmfs-segmentation",
                version=1,
                decision="rejected",
                metric="miou",
                reasons=("0.562 < minimum 0.6",),
            ),
            Decision(task="story", model="mmfs-story", version=2, decision="unchanged", metric="picture_accuracy"),
        ),
        lineage={
            "git": {"sha": "4c1e0f7a90d14b0e8f5e3f6f1f6f8f01aa00bb11", "patch": None},
            "dvc_lock": "9b1f",
            "seed": 0,
            "libraries": {"torch": "2.13.0", "mlflow": "3.17.2"},
        },
        data={"documents": 19000, "quarantined": 0},
    )


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br", "rect"):
            self.open.append(tag)
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href") if values.get(name)]
        self.pictures += tag == "img" and values["src"].startswith("data:image/png;base64,")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if tag == "rect":
            return
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_no_network():
    page = render(report_data())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.pictures == 1 + 2 * 10
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    for address in ("@import", "url(", "<script", "http://www", "https://"):
        assert address not in page


def test_page_says_what_happened():
    page = render(report_data())
    for expected in (
        "promoted",
        "rejected",
        "0.863",
        "0.826 – 0.893",
        "Cached",
        "pretrain",
        "3f1c9b0d0c5a4a6f9e3b",
        "brisk-otter",
        "there is no `java` on PATH",
        "libraries.torch",
        "story/text_loss",
        "91.2 %",
    ):
        assert expected in page


def test_texts_are_escaped():
    page = render(report_data().model_copy(update={"message": "<script>alert(1)</script>"}))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_run_that_failed_early_still_has_a_page():
    data = ReportData(
        run_id="x",
        state="Failed",
        started=datetime.now(UTC),
        wall_seconds=3,
        stages=(StageRow(name="version", state="Failed", seconds=1),),
        message="no git",
    )
    assert "no git" in render(data)


def test_a_run_of_uncommitted_source_says_so_at_the_top():
    warned = report_data().model_copy(update={"warning": "2 source files were changed"})
    assert "2 source files were changed" in render(warned).partition("</header>")[0]


def test_time_is_split_without_remainder():
    data = report_data()
    assert data.start_up_seconds + data.body_seconds + data.orchestration_seconds == pytest.approx(data.wall_seconds)


def test_collect_reads_what_the_run_left(tmp_path):
    paths, files = Paths(tmp_path / "checkout"), RunFiles(tmp_path / "run")
    paths.pretrain.mkdir(parents=True)
    with (paths.pretrain / "losses.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["step", "loss", "text_loss", "image_loss"], [1, 3.0, 2.0, 0.0], [2, 2.5, 1.5, 0.0]])
    paths.evaluation("story").mkdir(parents=True)
    write_metrics(paths.evaluation("story") / "metrics.json", {"picture_accuracy": Estimate(value=0.5, low=0.4, high=0.6, n=9)})
    write_illustrations(paths.evaluation("story") / "illustrations.json", [story()])
    files.folder.mkdir()
    files.lineage.write_text(json.dumps({"seed": 0}))
    events = EventWriter(files.events("pretrain"))
    events.started("pretrain", "k")
    events.progress(1, 2, "steps", {"time/step": 0.5, "time/data": 0.1, "time/forward": 0.4, "goodput": 0.5})
    events.progress(2, 2, "steps", {"time/step": 0.3, "time/data": 0.1, "time/forward": 0.2, "goodput": 0.75, "mfu": 0.2})
    events.finished({})
    held_out = ("step,name,value", "1,story/text_loss,2.0", "1,bucket_1/stop_accuracy,0.5", "2,story/text_loss,1.0", "")
    (paths.pretrain / "validation.csv").write_text("\n".join(held_out))
    data = collect(
        run_id="r",
        state="Completed",
        started=datetime.now(UTC),
        wall_seconds=10,
        files=files,
        paths=paths,
        stages=[StageRow(name="prepare", state="Cached", seconds=1), StageRow(name="pretrain", state="Completed", seconds=5)],
    )
    assert [(loss.stage, loss.name, loss.points) for loss in data.losses] == [("pretrain", "text_loss", ((1, 2.0), (2, 1.5)))]
    assert [(one.name, one.points) for one in data.validation] == [
        ("story/text_loss", ((1, 2.0), (2, 1.0))),
        ("bucket_1/stop_accuracy", ((1, 0.5),)),
    ]
    assert data.trainings == (Training(stage="pretrain", split={"data": 0.1, "forward": 0.2}, goodput=0.75, mfu=0.2),)
    assert data.lineage == {"seed": 0}
    assert data.tasks[0].illustrations == (story(),)
    assert "story model" in render(data)


def test_body_of_a_stage_lies_within_its_process(tmp_path):
    events = tmp_path / "events.jsonl"
    row = StageRow(name="s", state="Completed", seconds=4)

    def body(*lines: tuple[str, int]) -> float:
        events.write_text("".join(json.dumps({"schema": 1, "time_ms": time, "event": name}) + "\n" for name, time in lines))
        return body_seconds(events, row)

    assert body(("started", 1000), ("finished", 3500)) == 2.5
    assert body(("started", 1000), ("failed", 1500), ("started", 2000), ("finished", 3000)) == 1.0
    assert body(("started", 1000), ("finished", 9000)) == 4
    assert body(("started", 1000)) == 4
    assert body_seconds(tmp_path / "none", row) == 0


def test_an_illustration_reads_back_and_is_drawn(tmp_path):
    write_illustrations(tmp_path / "i.json", [story()])
    assert read_illustrations(tmp_path / "i.json") == [story()]
    assert sheet(story()).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")]
)
def test_durations_read_as_people_write_them(seconds, text):
    assert duration(seconds) == text


def test_charts_leave_out_what_is_not_finite_and_keep_inside():
    chart = line_chart([(0, 1.0), (1, math.nan), (2, 3.0)])
    assert chart.line.count(",") == 2
    for x, y in (point.split(",") for point in chart.line[1:].split(" ")):
        assert 0 <= float(x) <= chart.width
        assert 0 <= float(y) <= chart.height
    with pytest.raises(ValueError, match="finite"):
        line_chart([(0, math.inf)])
    assert line_chart([(5, 0.0)]).line


def test_ticks_are_round_and_enclose():
    assert round_ticks(0.13, 5.9, 4) == [0, 2, 4, 6]
    assert round_ticks(1, 1, 4)[0] <= 1 <= round_ticks(1, 1, 4)[-1]


def test_smoothing_begins_at_the_first_value():
    assert smoothed([4.0, 4.0, 4.0], 0.85) == pytest.approx([4, 4, 4])
