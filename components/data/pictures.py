"""Encoded pictures to RGB arrays and back; bytes from outside are hostile until decoded.

What a picture is says its content, not its name: PNG, JPEG, GIF and WEBP, of an animation the first frame. Upright after its EXIF
orientation, palettes and CMYK turned into RGB, 16-bit grey levels to their upper 8 bits, transparent pixels laid over white.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

EXTENSIONS = {PngImageFile: "png", JpegImageFile: "jpg", GifImageFile: "gif", WebPImageFile: "webp"}
FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
_WHITE = (255, 255, 255, 255)


class PictureError(ValueError):
    """Bytes that are no usable picture; the message says why."""


def encode_png(picture: np.ndarray) -> bytes:
    """PNG bytes of a uint8 [height, width, 3] array.

    Ten times faster than a general encoder on small pictures, where its set-up dominates; run lengths suit flat ground and noise.
    """
    height, width, channels = picture.shape
    if picture.dtype != np.uint8 or channels != 3:
        raise PictureError(f"expected uint8 [height, width, 3], got {picture.dtype} {list(picture.shape)}")
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    data = packer.compress(rows.tobytes()) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode(data: bytes, max_pixels: int, px: int | None = None) -> np.ndarray:
    """RGB uint8 [height, width, 3], upright. Raises PictureError for anything unusable, for too many pixels before they take memory.

    With `px` a large JPEG may come reduced to 1/2, 1/4 or 1/8 by its own cosine transform, both sides at least `px`: some times quicker
    than decoding it whole. The result follows from the bytes and `px` alone.
    """
    kind = _kind(data)
    try:
        if kind is WebPImageFile:
            _refuse_large(*_webp_size(data), max_pixels)  # its decoder takes memory for the canvas when it is made
        with kind(io.BytesIO(data)) as image:
            _refuse_large(image.width, image.height, max_pixels)
            if px is not None:
                image.draft("RGB", (px, px))
            return np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except (PictureError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"bomb-sized: {error}") from None
    except Exception as error:  # what the decoders raise for bytes that are made to break them has no common base
        raise PictureError(f"unreadable: {error or type(error).__name__}") from None


def extension(data: bytes) -> str:
    """The file name extension that the content asks for: png, jpg, gif or webp. Raises PictureError for anything else."""
    return EXTENSIONS[_kind(data)]


def _kind(data: bytes) -> type[ImageFile]:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"\xff\xd8"):
        return JpegImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    raise PictureError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture")


def _refuse_large(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureError(f"{width}x{height} is more than max_image_pixels ({max_pixels})")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) that the first chunk states: of the canvas, a lossless or a lossy picture."""
    chunk, start = data[12:16], data[20:30]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(start[4:7], "little"), 1 + int.from_bytes(start[7:10], "little")
    if chunk == b"VP8L":
        sizes = int.from_bytes(start[1:5], "little")
        return 1 + (sizes & 0x3FFF), 1 + (sizes >> 14 & 0x3FFF)
    return int.from_bytes(start[6:8], "little") & 0x3FFF, int.from_bytes(start[8:10], "little") & 0x3FFF


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, _WHITE)
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey levels to 8; a level that stands for transparency becomes an alpha channel."""
    levels = np.asarray(image).astype(np.int64)
    grey = Image.fromarray((levels >> 8).clip(0, 255).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
