"""A hash of the simulator's code and settings, so that weights can say what they were trained on.

The code itself is hashed, not what it draws: pixels and logarithms differ in their last bits from one machine and numpy to the
next, the text does not. Comments, docstrings, blank space and line ends do not count, so they can be improved freely;
every number and operator does.
"""

from __future__ import annotations

import hashlib
import io
import tokenize
from collections.abc import Sequence
from pathlib import Path

ROOM = Path(__file__).parent
SIMULATOR = ("tissue_settings", "tissue_geometry", "simulator", "training_fields")
"""Modules that decide what a training field looks like."""
RECIPE = ("data", "losses", "loop", "nimbus")
"""Modules that decide, beside the simulator, what a training does with it."""

_SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.ENDMARKER)


def simulator_hash() -> str:
    """sha256 of the simulator: what a card's ``settings_hash`` says of the weights' training fields."""
    return code_hash(SIMULATOR)


def recipe_hash() -> str:
    """sha256 of everything that turns training fields into weights."""
    return code_hash(RECIPE)


def code_hash(modules: Sequence[str]) -> str:
    """sha256 over the code of some modules of this room."""
    digest = hashlib.sha256()
    for name in modules:
        code = bare_code((ROOM / f"{name}.py").read_text(encoding="utf-8"))
        digest.update(f"{name}:{len(code)}\n{code}".encode())
    return digest.hexdigest()


def bare_code(source: str) -> str:
    """Python source without comments, docstrings and blank space: one line per statement, ``>`` and ``<`` for indentation."""
    statements: list[list[str]] = [[]]
    for token in tokenize.generate_tokens(io.StringIO(source.replace("\r\n", "\n")).readline):
        if token.type == tokenize.NEWLINE:
            statements.append([])
        elif token.type in (tokenize.INDENT, tokenize.DEDENT):
            statements.append([">" if token.type == tokenize.INDENT else "<"])
            statements.append([])
        elif token.type not in _SILENT:
            statements[-1].append(token.string)
    return "\n".join("".join("".join(s).split()) for s in statements if s and not _is_docstring(s))


def _is_docstring(statement: list[str]) -> bool:
    return len(statement) == 1 and statement[0].lstrip("rRuU")[:1] in ("'", '"')
