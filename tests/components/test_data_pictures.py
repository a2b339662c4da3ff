"""Pictures of any make become the same RGB; hostile bytes become one error and no memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.data.documents import ImageItem
from components.data.pictures import PictureError, decode, encode_png, extension

LIMIT = 1_000_000
RAMP = np.stack(np.meshgrid(np.arange(48) * 5, np.arange(32) * 7), axis=-1).sum(-1).clip(0, 255).astype(np.uint8)
COLOURS = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 90)], axis=-1)
ORIENTATION = 0x0112


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def close(one: np.ndarray, two: np.ndarray, tolerance: int = 8) -> bool:
    return one.shape == two.shape and int(np.abs(one.astype(int) - two).max()) <= tolerance


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})])
def test_every_format_gives_the_same_pixels(kind: str, options: dict[str, Any]) -> None:
    assert close(decode(stored(Image.fromarray(COLOURS), kind, **options), LIMIT), COLOURS, 0 if kind != "JPEG" else 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    data = stored(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **({"lossless": True} if kind == "WEBP" else {}))
    assert close(decode(data, LIMIT), np.full((30, 40, 3), (255, 0, 0), np.uint8), 0)
    assert extension(data) == kind.lower()


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (20, 10), (0, 255, 255, 0))
    assert close(decode(stored(image, "JPEG", quality=100), LIMIT), np.full((10, 20, 3), (255, 0, 0), np.uint8))


def test_sixteen_bit_grey_keeps_its_upper_half() -> None:
    levels = (RAMP.astype(np.uint16) << 8) + 77
    found = decode(stored(Image.fromarray(levels), "PNG"), LIMIT)
    assert close(found, np.repeat(RAMP[..., None], 3, axis=-1), 0)


def test_sixteen_bit_colours_and_grey_with_alpha() -> None:
    """Written by hand: what Pillow cannot write it must still read."""
    row = struct.pack(">3H", 0xFFFF, 0x8000, 0x00FF)
    assert decode(_png(2, 1, 16, 2, b"\0" + row + row), LIMIT).tolist() == [[[255, 128, 0], [255, 128, 0]]]
    assert decode(_png(1, 1, 16, 4, b"\0" + struct.pack(">2H", 0, 0)), LIMIT).tolist() == [[[255, 255, 255]]]
    clear = _png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 0x1234, 0x1000), transparent=struct.pack(">H", 0x1234))
    assert decode(clear, LIMIT).tolist() == [[[255, 255, 255], [16, 16, 16]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_pixels_lie_over_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 4), (10, 10, 10, 255))
    image.paste((200, 0, 0, 0), (0, 0, 4, 4))
    if mode == "P":
        palette = Image.new("P", (8, 4), 1)
        palette.putpalette([200, 0, 0, 10, 10, 10])
        palette.paste(0, (0, 0, 4, 4))
        data = stored(palette, "PNG", transparency=0)
    else:
        data = stored(image.convert("LA") if mode in ("LA", "PA") else image, "PNG")
    found = decode(data, LIMIT)
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == 10).all()


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert close(decode(stored(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG"), LIMIT), np.full((2, 2, 3), 127, np.uint8), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("px", [None, 8])
def test_a_turned_picture_stands_upright(orientation: int, px: int | None) -> None:
    upright = Image.fromarray(np.kron(COLOURS[::8, ::8], np.ones((32, 32, 1), np.uint8)))
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    laid = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    found = decode(stored(laid, "JPEG", quality=100, subsampling=0, exif=exif), LIMIT, px)
    expected = np.asarray(upright.resize((found.shape[1], found.shape[0]), Image.Resampling.BOX))
    assert found.shape == ((128, 192, 3) if px is None else (16, 24, 3))
    assert close(found, expected)


def test_the_content_decides_and_not_the_name() -> None:
    item = ImageItem(id="0", path="picture.jpg")
    data = encode_png(COLOURS)
    assert item.path.endswith(".jpg")
    assert extension(data) == "png"
    assert close(decode(data, LIMIT), COLOURS, 0)
    with pytest.raises(PictureError, match="not a PNG, JPEG, GIF or WEBP picture"):
        decode(b"<svg xmlns='http://www.w3.org/2000/svg'/>", LIMIT)
    with pytest.raises(PictureError, match="not a PNG"):
        decode(stored(Image.fromarray(COLOURS), "BMP"), LIMIT)


@pytest.mark.parametrize("side", [10_000, 40_000])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_large_pictures_are_refused_before_they_take_memory(kind: str, side: int) -> None:
    """100 megapixels and bombs: tiny files whose header states the size; a decoder that began would take gigabytes."""
    if kind == "PNG":
        data = _png(side, side, 8, 2, b"\0" * 10)
    elif kind == "JPEG":
        small = stored(Image.new("RGB", (8, 8)), "JPEG")
        frame = small.index(b"\xff\xc0")
        data = small[: frame + 5] + struct.pack(">HH", side, side) + small[frame + 9 :]
    elif kind == "GIF":
        small = stored(Image.new("RGB", (8, 8)), "GIF")
        data = small[:6] + struct.pack("<HH", side, side) + small[10:]
    else:
        size = (side - 1).to_bytes(3, "little")
        data = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + size
    with pytest.raises(PictureError, match=rf"{side}x{side} is more than max_image_pixels \(50000000\)"):
        decode(data, 50_000_000)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}, {"quality": 80, "exif": b"Exif\0\0"}])
def test_the_size_of_every_webp_is_read_from_its_head(options: dict[str, Any]) -> None:
    data = stored(Image.fromarray(COLOURS), "WEBP", **options)
    with pytest.raises(PictureError, match="48x32 is more"):
        decode(data, 48 * 32 - 1)
    assert decode(data, 48 * 32).shape == (32, 48, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_picture_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = stored(Image.fromarray(noise), kind)
    with pytest.raises(PictureError):
        decode(data[: int(share * len(data))], LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_changed_bytes_raise_nothing_else(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = stored(Image.fromarray(COLOURS), kind, **({} if kind == "GIF" else {"exif": exif}))
    rng = np.random.default_rng(1)
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 1 + int(rng.integers(6))):
            changed[place] = int(rng.integers(256))
        try:
            assert decode(bytes(changed), LIMIT).shape[2] == 3
        except PictureError:
            continue


def test_a_reduced_jpeg_has_at_least_the_sides_asked_for_and_looks_the_same() -> None:
    picture = Image.fromarray(COLOURS).resize((960, 640), Image.Resampling.BICUBIC)
    data = stored(picture, "JPEG", quality=95)
    for px, height in ((640, 640), (321, 640), (320, 320), (224, 320), (100, 160), (10, 80)):
        found = decode(data, LIMIT, px)
        assert found.shape == (height, height * 3 // 2, 3)
        assert np.array_equal(found, decode(data, LIMIT, px))
        whole = np.asarray(Image.fromarray(decode(data, LIMIT)).resize(found.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(found.astype(int) - whole).mean() < 1.5
    for kind in ("PNG", "WEBP"):
        other = stored(picture, kind)
        assert np.array_equal(decode(other, LIMIT, 100), decode(other, LIMIT))


def _png(width: int, height: int, depth: int, colour: int, rows: bytes, transparent: bytes | None = None) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"" if transparent is None else chunk(b"tRNS", transparent)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
