"""A small real video whose parts are moving, static, blurred and shaken, from the sample pictures of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import sklearn.datasets
from PIL import Image

FPS = 8
PART_S = 4
WIDTH, HEIGHT = 192, 128
PARTS = ("moving", "static", "blurred", "shaking")


@cache
def sample(name: str, width: int, height: int) -> np.ndarray:
    """`china` or `flower`, uint8 [height, width, 3]."""
    picture = Image.open(Path(sklearn.datasets.__file__).parent / "images" / f"{name}.jpg").convert("RGB")
    return cv2.resize(np.asarray(picture), (width, height), interpolation=cv2.INTER_AREA)


def moving(number: int) -> np.ndarray:
    """A flower crosses the temple, which stands still."""
    ground = sample("china", WIDTH, HEIGHT).copy()
    left = (number * 3) % (WIDTH - 64)
    ground[32:96, left : left + 64] = sample("flower", 64, 64)
    return ground


def static(number: int) -> np.ndarray:
    """Nothing happens."""
    return moving(9)


def blurred(number: int) -> np.ndarray:
    """The same out of focus."""
    return cv2.GaussianBlur(moving(number), (0, 0), 4)


def shaking(number: int) -> np.ndarray:
    """A hand holds the camera badly; nothing moves in the scene."""
    across, down = ((number * 7) % 5, (number * 5) % 4)
    large = sample("china", WIDTH + 12, HEIGHT + 12)
    return np.ascontiguousarray(large[down : down + HEIGHT, across : across + WIDTH])


def parts(names: Sequence[str] = PARTS) -> list[np.ndarray]:
    """The frames of these parts, one after the other."""
    draw: dict[str, Callable[[int], np.ndarray]] = {"moving": moving, "static": static, "blurred": blurred, "shaking": shaking}
    return [draw[name](number) for name in names for number in range(PART_S * FPS)]


def write_video(path: Path, frames: Sequence[np.ndarray], times_ms: Sequence[int] | None = None, codec: str = "libx264") -> Path:
    """Encode frames, evenly or at the given times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "preset": "ultrafast"} if codec == "libx264" else {}
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times_ms[number] if times_ms else number * 1000 // FPS, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
