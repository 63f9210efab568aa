"""Messages between mxbridge and a process beside it: JSON with bytes behind, length first, through pipes.

Knows nothing of QuPath. Both sides check what they read: a length beyond the limit is refused before anything is stored.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

MAGIC = b"MXQ1"
HEADER = struct.Struct(">4sIQ")
"""Mark, bytes of JSON, bytes behind it."""

MESSAGE_LIMIT = 64 << 20
"""Bytes of JSON in one message; objects of an image are sent a few hundred at a time."""


class FrameError(ValueError):
    """What was read is no message."""


def write_frame(stream: BinaryIO, message: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Raises OSError when nobody reads any more."""
    text = json.dumps(message).encode("ascii")
    stream.write(HEADER.pack(MAGIC, len(text), len(payload)))
    stream.write(text)
    stream.write(payload)
    stream.flush()


def read_frame(stream: BinaryIO, payload_limit: Callable[[], int] | None = None) -> tuple[dict[str, Any], bytes]:
    """The next message and its bytes. Raises EOFError where the stream ends, FrameError on anything else.

    payload_limit: the most bytes behind the JSON, asked when a message has come; none without it.
    """
    start = stream.read(HEADER.size)
    if not start:
        raise EOFError("the stream has ended")
    if len(start) < HEADER.size:
        raise FrameError("a message that breaks off")
    magic, text_bytes, payload_bytes = HEADER.unpack(start)
    if magic != MAGIC:
        raise FrameError(f"something that is no message: {start[:16]!r}")
    if text_bytes > MESSAGE_LIMIT or payload_bytes > (payload_limit() if payload_limit else 0):
        raise FrameError(f"a message of {text_bytes:,} and {payload_bytes:,} bytes, which is too long")
    text, payload = stream.read(text_bytes), stream.read(payload_bytes)
    if len(text) < text_bytes or len(payload) < payload_bytes:
        raise FrameError("a message that breaks off")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a message that is not JSON ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise FrameError("a message that is no JSON object")
    return message, payload
