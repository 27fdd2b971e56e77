"""Bytes of image files, usual and odd."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag


def encode(array, kind="PNG", mode=None, **options):
    """The bytes of a file."""
    image, file = array if isinstance(array, Image.Image) else Image.fromarray(array), io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def turned(orientation=6):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def png(array, bits=8, interlaced=False, grey=True):
    """A PNG that PIL cannot write: interlaced (Adam7), or grey of 2 or 4 bits."""
    h, w = array.shape[:2]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = []
    for y, x, dy, dx in passes if interlaced else ((0, 0, 1, 1),):
        part = array[y::dy, x::dx]
        for row in part if part.size else ():
            packed = "".join(f"{value:0{bits}b}" for value in row.ravel())
            packed += "0" * (-len(packed) % 8)
            rows.append(b"\0" + bytes(int(packed[i : i + 8], 2) for i in range(0, len(packed), 8)))
    head = struct.pack(">IIBBBBB", w, h, bits, 0 if grey else 2, 0, 0, interlaced)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def scene(h=30, w=44):
    """Smooth, no corner like another; and a mask with 0, 1, 2 and 255, no side like another."""
    y, x = np.indices((h, w)) / max(h, w)
    image = np.stack([250 * x, 250 * y, 200 - 90 * x - 80 * y], -1).astype(np.uint8)
    mask = np.ones((h, w), np.uint8)
    mask[: h // 3], mask[:, : w // 4], mask[-(h // 6) or h :, w // 2 :] = 0, 255, 2
    return image, mask
