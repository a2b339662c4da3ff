"""PDF files written by hand, so that a test knows where everything stands."""

from __future__ import annotations

import zlib


def a_pdf(*streams: bytes, image: bytes = b"\xff\x00\x00" * 4) -> bytes:
    """A file with one page a content stream, a font F and a 2x2 picture I."""
    packed = zlib.compress(image)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(streams), b" ".join(b"%d 0 R" % (5 + 2 * n) for n in range(len(streams)))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Type /XObject /Subtype /Image /Width 2 /Height 2 /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /FlateDecode"
        b" /Length %d >>\nstream\n%s\nendstream" % (len(packed), packed),
    ]
    for number, stream in enumerate(streams):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents %d 0 R"
            b" /Resources << /Font << /F 3 0 R >> /XObject << /I 4 0 R >> >> >>" % (6 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    body, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return body + b"xref\n0 %d\n0000000000 65535 f \n%strailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        size,
        table,
        size,
        len(body),
    )


def line(text: str, x: int, y: int) -> bytes:
    """A line of text whose baseline begins there."""
    return b"BT /F 12 Tf 1 0 0 1 %d %d Tm (%s) Tj ET\n" % (x, y, text.encode())


def shown(x: int, y: int, width: int, height: int) -> bytes:
    """The picture with its lower left corner there."""
    return b"q %d 0 0 %d %d %d cm /I Do Q\n" % (width, height, x, y)
