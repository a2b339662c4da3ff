"""Frames of a video file by PyAV. The file is hostile: what it is, how large it is and where it points is checked before it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from components.curation_params import VideoParams
from components.data.curation.windows import Window, Windower

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".ogv", ".flv", ".wmv")
# Containers that hold their own bytes. A playlist under a video's name could make FFmpeg open any file or address.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf"
_MAX_GAP_S = 600.0
_CUT_SHORT = 0.05


class VideoError(ValueError):
    """A file that is no usable video; the message says why."""


class Shown:
    """A frame. What is kept of it is a picture, uint8 [height, width, 3] RGB, upright, its longer side at most `side_px`."""

    def __init__(self, frame: av.VideoFrame, side_px: int) -> None:
        self._frame: av.VideoFrame | None = frame
        self._side_px = side_px
        self._picture: np.ndarray | None = None

    def keep(self) -> None:
        """Make the picture now; the decoder's own frame, which may be large, is let go."""
        self.picture  # noqa: B018

    @property
    def picture(self) -> np.ndarray:
        """The picture, made when it is first asked for."""
        if self._picture is None:
            assert self._frame is not None
            self._picture, self._frame = _picture(self._frame, self._side_px), None
        return self._picture


@dataclass
class Reading:
    """What was read of a video. `cut_short`: it ends well before its own statement; `windows_left`: more windows than were wanted."""

    frames: int = 0
    corrupt_frames: int = 0
    seconds: float = 0.0
    cut_short: bool = False
    frames_left: bool = False
    windows_left: bool = False


def read_windows(path: Path, params: VideoParams, reading: Reading) -> Iterator[Window[Shown]]:
    """The windows of a video as they become complete; `reading` is filled meanwhile. Raises VideoError, also after some windows."""
    if (size := path.stat().st_size) > params.max_bytes:
        raise VideoError(f"{size} bytes are more than video.max_bytes ({params.max_bytes})")
    windower: Windower[Shown] = Windower(params.windows, Shown.keep)
    given = 0
    for frame, time_s in _frames(path, params, reading):
        for window in windower.take(time_s, Shown(frame, params.side_px)):
            if given == params.max_windows:
                reading.windows_left = True
                return
            given += 1
            yield window
    for window in windower.end():
        if given == params.max_windows:
            reading.windows_left = True
            return
        given += 1
        yield window


def _frames(path: Path, params: VideoParams, reading: Reading) -> Iterator[tuple[av.VideoFrame, float]]:
    """Sound frames in the order of their times, seconds from the first."""
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    try:
        with path.open("rb") as file, av.open(file, mode="r", options=options, metadata_errors="replace") as container:
            yield from _sound(container, params, reading)
    except (av.error.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"unreadable: {getattr(error, 'strerror', None) or type(error).__name__}") from None


def _sound(container: Any, params: VideoParams, reading: Reading) -> Iterator[tuple[av.VideoFrame, float]]:
    if not container.streams.video:
        raise VideoError("it has no video stream")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise VideoError("its codec is unknown")
    if context.width * context.height > params.max_pixels:
        raise VideoError(f"{context.width}x{context.height} is more than video.max_pixels ({params.max_pixels})")
    context.options = {"max_pixels": str(params.max_pixels)}  # holds too where the size changes on the way
    first = last = None
    for frame in container.decode(stream):
        if reading.frames + reading.corrupt_frames >= params.max_frames:
            reading.frames_left = True
            return
        time_s = frame.time
        if frame.is_corrupt or time_s is None or (last is not None and time_s <= last):
            reading.corrupt_frames += 1
            continue
        if last is not None and time_s - last > _MAX_GAP_S:
            raise VideoError(f"its times jump by {time_s - last:.0f} s")
        first = time_s if first is None else first
        last = time_s
        reading.frames += 1
        reading.seconds = round(time_s - first, 6)
        yield frame, time_s - first
    if reading.frames == 0:
        raise VideoError("it has no usable frame")
    reading.cut_short = _stated_s(container, stream) > reading.seconds * (1 + _CUT_SHORT) + 1


def _stated_s(container: Any, stream: Any) -> float:
    if stream.duration is not None and stream.time_base is not None:
        return float(Fraction(stream.duration) * stream.time_base)
    return float(container.duration or 0) / av.time_base


def _picture(frame: av.VideoFrame, side_px: int) -> np.ndarray:
    scale = min(1.0, side_px / max(frame.width, frame.height))
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    picture = frame.to_ndarray(format="rgb24")
    if scale < 1:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns))
