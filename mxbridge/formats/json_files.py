"""JSON files that anybody may have written: read within limits, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mxbridge.errors import BrokenFile


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in ``data``, the bytes of ``path``.

    Raises BrokenFile on anything else, nesting without end included.
    """
    try:
        document = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BrokenFile(path, "is not UTF-8 text", position=error.start) from None
    except json.JSONDecodeError as error:
        raise BrokenFile(path, f"is not valid JSON ({error.msg})", position=error.pos) from None
    except (ValueError, RecursionError) as error:
        raise BrokenFile(path, f"is not valid JSON ({type(error).__name__})") from None
    if not isinstance(document, dict):
        raise BrokenFile(path, f"holds a JSON {type(document).__name__}, not an object")
    return document
