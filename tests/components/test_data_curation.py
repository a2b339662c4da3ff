"""Videos to frames: windows, hostile files, filters that drop what they must, thresholds, plug-ins."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from tiny_onnx import save_maniqa, save_raft
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model
from video_world import FPS, HEIGHT, PART_S, PARTS, WIDTH, moving, parts, static, write_video

from components.curation_params import (
    CaptioningParams,
    CurationParams,
    MeasureParams,
    PilotParams,
    VideoParams,
    WindowParams,
    load_curation,
)
from components.data.curation.curator import Curator, list_videos
from components.data.curation.measures import MEASURES, FarnebackFlow, HistogramDifference, Instruments, flow_statistics
from components.data.curation.plugins import DinoDifference, Maniqa, Raft
from components.data.curation.sifting import Sieve
from components.data.curation.thresholds import Threshold, Thresholds, calibrate
from components.data.curation.video import Reading, VideoError, read_windows
from components.data.curation.windows import Windower
from components.data.documents import CorpusError, parse_document
from components.params import ParamsError
from model.weights import WeightsError

FOUR = WindowParams(frames=4, apart_s=0.5)
INSTRUMENTS = Instruments(FarnebackFlow(), HistogramDifference())
PARAMS = CurationParams(
    video=VideoParams(windows=(FOUR,), side_px=WIDTH),
    pilot=PilotParams(videos=1, windows=8),
    sharpness=MeasureParams(percentile=25),
    flow_mean=MeasureParams(percentile=25),
    flow_variance=MeasureParams(percentile=50),
    distance=MeasureParams(percentile=10),
)
"""A quarter of the world is blurred, a quarter static, a half static or shaken."""


def silent(told: str, done: int, total: int) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the video of four parts."""
    return write_video(tmp_path_factory.mktemp("videos") / "world.mp4", parts())


def times(kinds: list[WindowParams], shown: list[float]) -> list[tuple[str, list[float]]]:
    windower: Windower[float] = Windower(kinds)
    windows = [window for time_s in shown for window in windower.take(time_s, time_s)]
    return sorted((window.key, [time_s for time_s, _ in window.frames]) for window in [*windows, *windower.end()])


def test_windows_of_several_intervals_run_beside_each_other() -> None:
    quarter = [number / 4 for number in range(17)]
    kinds = [
        WindowParams(frames=2, apart_s=1),
        WindowParams(frames=3, apart_s=0, every_s=2),
        WindowParams(frames=2, apart_s=1, every_s=0.5),
    ]
    found = times(kinds, quarter)
    assert [own for key, own in found if key[0] == "0"] == [[0, 1], [2, 3], [4]]
    assert [own for key, own in found if key[0] == "1"] == [[0, 0.25, 0.5], [2, 2.25, 2.5], [4]]
    assert [own for key, own in found if key[0] == "2"][:3] == [[0, 1], [0.5, 1.5], [1, 2]]


def test_a_frame_is_shown_until_the_next_one() -> None:
    ((_, own),) = times([WindowParams(frames=4, apart_s=1)], [10.0, 10.1, 12.5, 12.6, 13.0])
    assert own == pytest.approx([0.0, 0.1, 3.0])


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0.01, 5), min_size=1, max_size=60),
    frames=st.integers(2, 6),
    apart=st.sampled_from([0.0, 0.1, 0.7, 3.0]),
    every=st.sampled_from([None, 0.5, 4.0]),
)
def test_windows_hold_each_frame_once_in_order(gaps: list[float], frames: int, apart: float, every: float | None) -> None:
    shown = np.cumsum([0.0, *gaps]).tolist()
    kept: list[float] = []
    windower: Windower[float] = Windower([WindowParams(frames=frames, apart_s=apart, every_s=every)], kept.append)
    windows = [window for time_s in shown for window in windower.take(time_s, time_s)] + list(windower.end())
    for window in windows:
        own = [time_s for time_s, _ in window.frames]
        assert 1 <= len(own) <= frames and own == sorted(set(own)) and set(own) <= set(shown) <= {*shown, *kept}
        assert set(own) <= set(kept)
    assert len({window.key for window in windows}) == len(windows)


def test_too_many_windows_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="raise every_s"):
        WindowParams(frames=64, apart_s=10, every_s=1)


def test_frames_are_scaled_and_read_at_their_times(world: Path) -> None:
    reading = Reading()
    windows = list(read_windows(world, VideoParams(windows=(FOUR,), side_px=96), reading))
    assert [time_s for window in windows for time_s, _ in window.frames] == [number / 2 for number in range(32)]
    assert {shown.picture.shape for window in windows for _, shown in window.frames} == {(64, 96, 3)}
    assert (reading.frames, reading.seconds) == (len(PARTS) * PART_S * FPS, len(PARTS) * PART_S - 1 / FPS)
    assert not (reading.cut_short or reading.frames_left or reading.windows_left or reading.corrupt_frames)


def test_variable_frame_rates_are_read_by_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "vfr.mkv", parts(["moving"])[:7], [0, 10, 20, 1500, 1520, 2600, 2610])
    ((only),) = [
        [time_s for time_s, _ in window.frames]
        for window in read_windows(path, VideoParams(windows=(WindowParams(frames=3, apart_s=1),)), Reading())
    ]
    assert only == pytest.approx([0.0, 0.02, 1.52])


def test_limits_leave_the_rest_and_say_so(world: Path) -> None:
    reading = Reading()
    assert len(list(read_windows(world, VideoParams(windows=(FOUR,), max_windows=3), reading))) == 3 and reading.windows_left
    reading = Reading()
    list(read_windows(world, VideoParams(windows=(FOUR,), max_frames=20), reading))
    assert reading.frames == 20 and reading.frames_left
    with pytest.raises(VideoError, match="max_pixels"):
        list(read_windows(world, VideoParams(max_pixels=WIDTH * HEIGHT - 1), Reading()))
    with pytest.raises(VideoError, match="max_bytes"):
        list(read_windows(world, VideoParams(max_bytes=1000), Reading()))


def test_a_cut_file_gives_what_it_has_or_is_refused(tmp_path: Path) -> None:
    frames = parts(["moving"])
    for name in ("a.mkv", "a.mp4"):
        whole = write_video(tmp_path / name, frames)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    reading = Reading()
    windows = list(read_windows(tmp_path / "a.mkv", VideoParams(windows=(FOUR,)), reading))
    assert windows and reading.cut_short and 4 < reading.frames < len(frames)
    with pytest.raises(VideoError, match="unreadable"):
        list(read_windows(tmp_path / "a.mp4", VideoParams(), Reading()))


def hostile(folder: Path) -> dict[str, str]:
    """Files that are no videos, by the words that refuse them."""
    secret = write_video(folder / "inside" / "secret.ts", parts(["moving"])[:8])
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:5.0,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    (folder / "list.mkv").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    (folder / "empty.mp4").touch()
    (folder / "noise.avi").write_bytes(np.random.default_rng(0).bytes(20_000))
    (folder / "picture.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    import av

    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    write_video(folder / "jump.mkv", parts(["moving"])[:4], [0, 100, 200, 5_000_000])
    unreadable = dict.fromkeys(("playlist.mp4", "list.mkv", "empty.mp4", "noise.avi", "picture.mp4"), "unreadable")
    return unreadable | {"sound.mp4": "no video stream", "jump.mkv": "jump by"}


def test_what_is_no_video_is_refused_and_nothing_else_is_opened(tmp_path: Path) -> None:
    for name, told in hostile(tmp_path).items():
        with pytest.raises(VideoError, match=told):
            list(read_windows(tmp_path / name, VideoParams(windows=(FOUR,)), Reading()))


@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_never_raise_anything_else(world: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(world.read_bytes()[:60_000] if seed % 2 else world.read_bytes())
    for place in rng.integers(0, len(data), 40):
        data[place] = rng.integers(256)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    reading = Reading()
    with contextlib.suppress(VideoError):
        list(read_windows(path, VideoParams(windows=(FOUR,), max_frames=30), reading))
    assert reading.frames <= 30


def stated(**limits: float) -> Thresholds:
    measures = {name: Threshold(value=limits.get(name), basis="stated") for name in MEASURES}
    return Thresholds(key="", measures=measures, instruments={}, pilot=())


@pytest.mark.parametrize(
    ("limits", "left", "fell"),
    [
        ({"sharpness": 100}, {"moving", "static", "shaking"}, "sharpness"),
        ({"flow_mean": 0.5}, {"moving", "blurred", "shaking"}, "flow_mean"),
        ({"flow_variance": 2}, {"moving", "blurred"}, "flow_variance"),
        ({"distance": 0.01}, {"moving", "blurred", "shaking"}, "distance"),
        ({"sharpness": 100, "flow_mean": 0.5, "flow_variance": 2}, {"moving"}, None),
    ],
)
def test_each_filter_drops_what_it_must(world: Path, limits: dict[str, float], left: set[str], fell: str | None) -> None:
    sieve = Sieve(INSTRUMENTS)
    whole: set[str] = set()
    reasons: set[str] = set()
    for window in read_windows(world, VideoParams(windows=(FOUR,)), Reading()):
        sifted = sieve.sift(window, stated(**limits))
        part = PARTS[window.number // 2]
        assert len(sifted.kept) + sum(sifted.dropped.values()) == len(window.frames)
        reasons |= set(sifted.dropped)
        if len(sifted.kept) == len(window.frames):
            whole.add(part)
            assert all("flow_mean" in frame.values for frame in sifted.kept[1:]) and "flow_mean" not in sifted.kept[0].values
        else:
            assert len(sifted.kept) <= 1, f"{part} is neither kept nor dropped"
    assert whole == left and (fell is None or reasons == {fell})


def test_a_small_change_is_measured_against_the_last_frame_that_stays() -> None:
    """A slow pan is not dropped frame by frame for ever: differences add up until one is large enough."""
    difference = HistogramDifference()
    one = difference.features(static(0))
    assert difference.distance(one, one) == 0
    far = [difference.distance(one, difference.features(moving(9 + step))) for step in (1, 4, 12)]
    assert far == sorted(far) and far[0] < far[-1] <= 1


def test_flow_statistics_tell_motion_from_shaking() -> None:
    flow = np.zeros((60, 80, 2), np.float32)
    assert flow_statistics(flow) == (0, 0)
    flow[..., 0] = 3
    mean, variance = flow_statistics(flow)
    assert mean == pytest.approx(3) and variance == pytest.approx(0)  # the diagonal is 100
    flow[:30] = 0
    assert flow_statistics(flow) == (pytest.approx(1.5), pytest.approx(2.25))


def test_thresholds_are_percentiles_unless_stated() -> None:
    params = PARAMS.model_copy(update={"flow_mean": MeasureParams(threshold=7)})
    values = {"sharpness": list(map(float, range(101))), "distance": [0.0] * 90 + [1.0] * 10}
    found = calibrate(values, params, INSTRUMENTS.names(), ["b", "a"], "k")
    assert found.measures["sharpness"] == Threshold(value=25, basis="percentile", percentile=25, values=101)
    assert found.measures["flow_mean"].value == 7 and found.measures["flow_mean"].basis == "stated"
    assert found.measures["quality"] == Threshold(value=None, basis="no values")
    assert found.drops("distance", 0.0) and not found.drops("distance", 1.0), "what is equal falls, so that stills do"
    assert not found.drops("quality", -1e9) and found.pilot == ("a", "b")


def test_plugins_measure_what_their_networks_say(tmp_path: Path) -> None:
    grey = np.full((30, 50, 3), 51, np.uint8)
    maniqa = Maniqa(save_maniqa(tmp_path / "maniqa"))
    assert maniqa.name.startswith("maniqa:") and maniqa.score(grey) == pytest.approx(3 * 0.2, abs=1e-4)
    raft = Raft(save_raft(tmp_path / "raft"))
    after = grey.copy()
    after[..., 0] += 16
    flow = raft.between(grey, after)
    assert flow.shape == (30, 50, 2)
    assert flow[..., 0] == pytest.approx(16 * 50 / 16, abs=1e-3) and flow[..., 1] == pytest.approx(0, abs=1e-3)
    torch.manual_seed(0)
    dino = tmp_path / "dino"
    Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)).save_pretrained(
        dino
    )
    BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(dino)
    difference = DinoDifference(dino)
    one, two = difference.features(moving(0)), difference.features(np.zeros((40, 40, 3), np.uint8))
    assert difference.distance(one, one) == pytest.approx(0, abs=1e-9) and difference.distance(one, two) > 1e-4
    full = Instruments(raft, difference, maniqa)
    assert full.unavailable() == [] and INSTRUMENTS.unavailable() == ["maniqa", "raft", "dinov2"]
    assert calibrate({}, PARAMS, full.names(), [], "").measures["distance"].value == 0.04
    sifted = Sieve(full).measure(
        next(read_windows(write_video(tmp_path / "v.mkv", parts(["moving"])), VideoParams(windows=(FOUR,)), Reading()))
    )
    assert {name: len(own) for name, own in sifted.items()} == {
        "sharpness": 4,
        "quality": 4,
        "flow_mean": 3,
        "flow_variance": 3,
        "distance": 3,
    }


def test_a_folder_that_is_no_plugin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"plugin\.json is missing"):
        Maniqa(tmp_path)
    with pytest.raises(WeightsError, match="expected raft with 2"):
        Raft(save_maniqa(tmp_path / "maniqa"))
    with pytest.raises(WeightsError, match="file"):
        Maniqa(save_maniqa(tmp_path / "outward", file="../model.onnx"))
    broken = save_maniqa(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no protobuf")
    with pytest.raises(WeightsError, match="no ONNX"):
        Maniqa(broken)
    with pytest.raises(WeightsError, match="safetensors"):
        DinoDifference(tmp_path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_costs(folder: Path) -> dict[str, Any]:
    """All files of a target; costs left out of the documents."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".jsonl" and path.stem in ("documents", "waiting"):
            documents = lines(path)
            for one in documents:
                assert one["facts"].pop("cost_seconds") >= 0
            found[path.name] = documents
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_frames_are_curated_without_any_model(world: Path, tmp_path: Path) -> None:
    target = tmp_path / "curated"
    metrics = Curator(world.parent, target, PARAMS, INSTRUMENTS).run(silent)
    assert metrics["windows"] == 8 and metrics["waiting"] == 2 and metrics["documents"] == 0
    assert metrics["dropped_sharpness"] == 8 and metrics["dropped_flow_mean"] > 0 and metrics["dropped_flow_variance"] > 0
    assert (target / "documents.jsonl").read_text() == ""
    documents = [parse_document(line) for line in (target / "waiting.jsonl").read_text().splitlines()]
    assert [[item.facts["time_s"] for item in one.images] for one in documents] == [[0, 0.5, 1, 1.5], [2, 2.5, 3, 3.5]]
    assert all(
        one.origin == "automated" and one.kind == "interleaved" and one.fields == {"waiting": True} and not one.texts for one in documents
    )
    assert all((target / item.path).is_file() for one in documents for item in one.images)
    record = lines(target / "manifest.jsonl")[0]
    assert record["levels"] == {"global": "waiting", "frame": "waiting", "cross": "waiting"} and record["route"] == "video"
    assert set(record["blocks"][1]["filters"]) == {"sharpness", "flow_mean", "flow_variance", "distance"}
    head = json.loads((target / "curation.json").read_text())
    assert head["unavailable"] == ["maniqa", "raft", "dinov2"] and head["instruments"]["quality"] == "unavailable"
    assert head["thresholds"]["measures"]["sharpness"]["basis"] == "percentile"


def test_a_rerun_does_nothing_and_another_place_gives_the_same(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    Curator(world.parent, one, PARAMS, INSTRUMENTS).run(silent)
    Curator(world.parent, two, PARAMS, INSTRUMENTS).run(silent)
    assert without_costs(one) == without_costs(two)
    before = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    monkeypatch.setattr("components.data.curation.cutting.read_windows", None)
    Curator(world.parent, one, PARAMS, INSTRUMENTS).run(silent)
    assert {path: path.read_bytes() for path in one.rglob("*") if path.is_file()} == before


def test_one_video_more_changes_no_other(world: Path, tmp_path: Path) -> None:
    videos, target = tmp_path / "videos", tmp_path / "target"
    videos.mkdir()
    os.link(world, videos / "a.mp4")
    Curator(videos, target, PARAMS, INSTRUMENTS).run(silent)
    first = (target / "waiting.jsonl").read_text()
    write_video(videos / "b.mkv", parts(["static", "moving"]))
    metrics = Curator(videos, target, PARAMS, INSTRUMENTS).run(silent)
    assert metrics["videos"] == 2 and metrics["waiting"] > 2
    assert (target / "waiting.jsonl").read_text().startswith(first)
    (videos / "b.mkv").unlink()
    Curator(videos, target, PARAMS, INSTRUMENTS).run(silent)
    assert (target / "waiting.jsonl").read_text() == first
    assert len(list((target / "images").iterdir())) == 1


def test_hostile_files_are_quarantined_with_their_reasons(world: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    told = hostile(videos)
    os.link(world, videos / "world.mp4")
    os.link(world, videos / "zcopy.mp4")
    (videos / "link.mp4").symlink_to("/etc/passwd")
    (videos / "notes.txt").write_text("no video")
    metrics = Curator(videos, tmp_path / "target", PARAMS, INSTRUMENTS).run(silent)
    reasons = {one["where"]: one["reason"] for one in lines(tmp_path / "target" / "quarantine.jsonl")}
    assert metrics["quarantined"] == len(reasons) == len(told) + 2
    assert all(words in reasons[name] for name, words in told.items())
    assert reasons["zcopy.mp4"] == "the same bytes as world.mp4" and "link" in reasons["link.mp4"]
    assert metrics["waiting"] >= 2


def test_a_video_that_kills_the_process_is_left_after_three_times(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    Curator(world.parent, target, PARAMS, INSTRUMENTS).run(silent)
    (cut,) = (tmp_path / "target.units").glob("*/cut.json")
    cut.unlink()
    (cut.parent.parent / f"{cut.parent.name}.attempts").write_text("3")
    metrics = Curator(world.parent, target, PARAMS, INSTRUMENTS).run(silent)
    assert metrics["quarantined"] == 1 and "three times" in lines(target / "quarantine.jsonl")[0]["reason"]


def test_an_interrupted_video_is_begun_again(world: Path, tmp_path: Path) -> None:
    class Interrupting(FarnebackFlow):
        calls = 0

        def between(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
            Interrupting.calls += 1
            if Interrupting.calls == 30:
                raise KeyboardInterrupt
            return super().between(before, after)

    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(KeyboardInterrupt):
        Curator(world.parent, one, PARAMS, Instruments(Interrupting(), HistogramDifference())).run(silent)
    assert not one.exists()
    Curator(world.parent, one, PARAMS, INSTRUMENTS).run(silent)
    Curator(world.parent, two, PARAMS, INSTRUMENTS).run(silent)
    assert without_costs(one) == without_costs(two)


def test_a_folder_of_somebody_else_is_not_replaced(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(CorpusError, match="name a new folder"):
        Curator(world.parent, tmp_path / "mine", PARAMS, INSTRUMENTS).run(silent)
    with pytest.raises(CorpusError, match="holds no video"):
        Curator(tmp_path / "mine", tmp_path / "target", PARAMS, INSTRUMENTS).run(silent)
    assert not list_videos(tmp_path / "mine").found


def test_parameters_are_read_and_wrong_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "curation.yaml"
    path.write_text("name: street\nsharpness: {percentile: 20}\nvideo: {windows: [{frames: 2, apart_s: 0, every_s: 1}]}\n")
    params = load_curation(path)
    assert (params.name, params.sharpness.percentile, params.video.windows[0].stride_s) == ("street", 20, 1)
    assert load_curation(None) == CurationParams()
    path.write_text("sharpnes: {}\n")
    with pytest.raises(ParamsError, match="sharpnes"):
        load_curation(path)


def test_the_page_names_every_parameter() -> None:
    page = (Path(__file__).parents[2] / "docs" / "curation.md").read_text(encoding="utf-8")

    def keys(section: type[BaseModel]) -> Iterator[str]:
        for name, field in section.model_fields.items():
            inner = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type) and issubclass(one, BaseModel)]
            yield from keys(inner[0]) if inner else (name,)
            assert field.description or inner, f"{name} is not described"

    named = {*keys(CurationParams), *keys(CaptioningParams), *MEASURES}
    assert not [name for name in named if f"`{name}`" not in page and f".{name}`" not in page]
