"""Encoders of PNG, TIFF and BMP that write byte by byte, independent of Pillow."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def packed(labels: np.ndarray, bits: int) -> list[bytes]:
    """Rows of `labels` (H, W), each number in `bits` bits, big-endian, as in PNG."""
    rows = []
    for row in labels:
        digits = "".join(f"{value:0{bits}b}" for value in row)
        digits += "0" * (-len(digits) % 8)
        rows.append(int(digits, 2).to_bytes(len(digits) // 8, "big"))
    return rows


def png(labels: np.ndarray, bits: int, colour: int, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of colour type 0 (grey) or 3 (palette), PNG specification sections 5 and 8."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = labels.shape
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]  # Adam7
    parts = [labels[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [labels]
    data = b"".join(b"\0" + row for part in parts if part.size for row in packed(part, bits))
    palette = chunk(b"PLTE", bytes((7 * i) % 256 for i in range(3 * 2 ** min(bits, 8)))) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + palette + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def tiff(labels: np.ndarray, photometric: int = 1, bits: int = 0, sample: int = 1, order: str = "<", turn: int = 1) -> bytes:
    """An uncompressed grey TIFF; `bits` 0: as wide as the array's type."""
    width_of = labels.dtype.itemsize * 8
    data = b"".join(packed(labels, bits)) if bits else labels.astype(labels.dtype.newbyteorder(order)).tobytes()
    height, width = labels.shape
    data += b"\0" * (len(data) % 2)
    entries = [
        *((256, width), (257, height), (258, bits or width_of), (259, 1), (262, photometric), (273, 8), (274, turn)),
        *((277, 1), (278, height), (279, len(data)), (339, sample)),
    ]
    directory = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries)
    start = struct.pack("2sHI", b"II", 42, 8 + len(data)) if order == "<" else struct.pack(">2sHI", b"MM", 42, 8 + len(data))
    return start + data + struct.pack(order + "H", len(entries)) + directory + bytes(4)


def bmp(labels: np.ndarray, bits: int, palette: list[tuple[int, int, int]]) -> bytes:
    """An uncompressed BMP, bottom row first, rows padded to 4 bytes."""
    colours = b"".join(bytes((b, g, r, 0)) for r, g, b in palette)
    data = b"".join(row + b"\0" * (-len(row) % 4) for row in packed(labels[::-1], bits))
    start = 54 + len(colours)
    header = struct.pack("<IiiHHIIiiII", 40, labels.shape[1], labels.shape[0], 1, bits, 0, len(data), 0, 0, len(palette), 0)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + header + colours + data
