"""One video to its frames: read, filtered, written; and the pilot that thresholds come from."""

from __future__ import annotations

import hashlib
import io
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from components.curation_params import CurationParams
from components.data.curation.measures import Instruments
from components.data.curation.sifting import Kept, Sieve
from components.data.curation.thresholds import Thresholds
from components.data.curation.units import Cost, Cut, CutFrame, Unit
from components.data.curation.video import Reading, VideoError, read_windows
from components.data.keyed import digest
from components.run.filetree import remove, write_whole

_DIED = "the process died over it three times; remove {} to try again"
TOO_SHORT = "window"
"""What a window with too few frames falls by."""


def tool_versions() -> dict[str, str]:
    """The libraries that frames and measures come from."""
    return {"av": version("av"), "opencv": cv2.__version__, "numpy": np.__version__, "pillow": version("pillow")}


def pilot_values(
    videos: Sequence[tuple[str, Path]], root: Path, params: CurationParams, instruments: Instruments
) -> tuple[dict[str, list[float]], list[str]]:
    """The measures of a pilot batch and the sha256 of its videos: (sha256, path) drawn by key, unusable ones passed over.

    Windows are shared out between the videos, so that one long video is not all of it.
    """
    order = sorted(videos, key=lambda one: digest(params.seed, "pilot", one[0]))
    share = max(1, -(-params.pilot.windows // params.pilot.videos))
    values: dict[str, list[float]] = defaultdict(list)
    used: list[str] = []
    for sha256, path in order:
        if len(used) == params.pilot.videos:
            break
        unit = Unit(root, sha256)
        if not unit.begin():
            continue
        try:
            found = list(_measured(path, params, instruments, share))
        except VideoError:
            continue
        finally:
            unit.end()
        used.append(sha256)
        for name, own in found:
            values[name] += own
    return values, used


def _measured(path: Path, params: CurationParams, instruments: Instruments, windows: int) -> Iterator[tuple[str, list[float]]]:
    sieve = Sieve(instruments)
    for number, window in enumerate(read_windows(path, params.video, Reading())):
        if number == windows:
            return
        yield from sieve.measure(window).items()


def cut(
    name: str, path: Path, sha256: str, key: str, root: Path, params: CurationParams, instruments: Instruments, thresholds: Thresholds
) -> Cut:
    """Make and keep the frames of a video; a file that is no usable one is kept as rejected, with the reason."""
    unit, reading, began = Unit(root, sha256), Reading(), time.perf_counter()
    remove(unit.folder)
    if not unit.begin():
        return Cut(key=key, video=name, sha256=sha256, rejected=_DIED.format(f"{unit.folder}.attempts"))
    windows: dict[str, tuple[CutFrame, ...]] = {}
    dropped: dict[str, int] = defaultdict(int)
    problem = ""
    try:
        sieve = Sieve(instruments)
        for window in read_windows(path, params.video, reading):
            sifted = sieve.sift(window, thresholds)
            for measure, count in sifted.dropped.items():
                dropped[measure] += count
            if len(sifted.kept) < params.min_frames:
                dropped[TOO_SHORT] += 1
                continue
            windows[window.key] = tuple(_written(frame, unit, params.video.jpeg_quality) for frame in sifted.kept)
    except VideoError as error:
        problem, windows = str(error), {}
        remove(unit.folder)
    finally:
        unit.end()
    counts = {field: float(value) for field, value in asdict(reading).items()}
    made = Cut(
        key=key,
        video=name,
        sha256=sha256,
        rejected=problem,
        reading=counts,
        windows=dict(sorted(windows.items())),
        dropped={} if problem else dict(sorted(dropped.items())),
        tool_versions=tool_versions(),
    )
    unit.write(Cost(cut_seconds=round(time.perf_counter() - began, 6)), made)
    return made


def _written(frame: Kept, unit: Unit, quality: int) -> CutFrame:
    """The frame's file, one for all windows that it is in."""
    buffer = io.BytesIO()
    Image.fromarray(frame.picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    file = f"{round(frame.time_s * 1e6):012d}.jpg"
    if not (unit.folder / file).exists():
        write_whole(unit.folder / file, buffer.getvalue())
    return CutFrame(file=file, sha256=hashlib.sha256(buffer.getvalue()).hexdigest(), time_s=round(frame.time_s, 6), filters=frame.values)
