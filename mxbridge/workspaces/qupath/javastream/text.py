"""Modified UTF-8: NUL is C0 80, and characters beyond U+FFFF are two surrogates of three bytes each."""

from __future__ import annotations

import struct


def decode_text(raw: bytes) -> str:
    """As Java's readUTF does it. Raises ValueError on bytes that are no modified UTF-8."""
    if raw.isascii():
        return raw.decode("ascii")
    units: list[int] = []
    at, end = 0, len(raw)
    while at < end:
        first = raw[at]
        length = 1 if first < 0x80 else 2 if first >> 5 == 0b110 else 3 if first >> 4 == 0b1110 else 0
        tail = raw[at + 1 : at + length]
        if not length or len(tail) < length - 1 or any(byte >> 6 != 0b10 for byte in tail):
            raise ValueError("text that is not modified UTF-8")
        if length == 1:
            units.append(first)
        elif length == 2:
            units.append((first & 0x1F) << 6 | tail[0] & 0x3F)
        else:
            units.append((first & 0x0F) << 12 | (tail[0] & 0x3F) << 6 | tail[1] & 0x3F)
        at += length
    return struct.pack(f">{len(units)}H", *units).decode("utf-16-be", "surrogatepass")


def encode_text(text: str) -> bytes:
    """As Java's writeUTF does it."""
    if text.isascii() and "\0" not in text:
        return text.encode("ascii")
    wide = text.encode("utf-16-be", "surrogatepass")
    out = bytearray()
    for (unit,) in struct.iter_unpack(">H", wide):
        if 0 < unit < 0x80:
            out.append(unit)
        elif unit < 0x800:
            out += bytes((0xC0 | unit >> 6, 0x80 | unit & 0x3F))
        else:
            out += bytes((0xE0 | unit >> 12, 0x80 | unit >> 6 & 0x3F, 0x80 | unit & 0x3F))
    return bytes(out)
