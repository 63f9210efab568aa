"""Names of table columns: what people read, and the identifiers that OMERO's table queries need.

A query is a condition such as ``(Nimbus_CD3 > 0.5) & (Image == 17)``: names must be Python identifiers, no keyword, no function
of the query language. The readable name goes into the column's description, which the table's file keeps as ASCII only.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Sequence

LONGEST = 64

_FUNCTIONS = {
    "where", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "arcsinh", "arccosh",
    "arctanh", "log", "log10", "log1p", "log2", "exp", "expm1", "sqrt", "abs", "conj", "real", "imag", "complex", "contains",
    "floor", "ceil", "isnan", "isinf", "isfinite", "sum", "prod", "min", "max", "startswith", "int", "float", "bool", "long",
    "double", "str", "bytes", "nan", "inf",
}  # fmt: skip
_SPELT = {
    "µ": "u", "μ": "u", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa", "λ": "lambda",
    "ß": "ss", "æ": "ae", "ø": "o", "²": "2", "³": "3", "×": "x", "–": "-", "—": "-",
}  # fmt: skip
"""Letters of marker names and units that lose their marks otherwise."""


def identifiers(labels: Sequence[str]) -> tuple[str, ...]:
    """One identifier per label, all different (also to those who overlook capitals): ``Nimbus: CD3`` -> ``Nimbus_CD3``.

    The first of several that would be called the same keeps the name, the others get ``_2``, ``_3`` ...
    """
    taken: set[str] = set()
    names = []
    for label in labels:
        plain = _identifier(label)
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)


def in_ascii(text: str) -> str:
    """A text with nothing but ASCII in one line: known letters spelt, accents dropped, ``?`` for what has no spelling."""
    spelt = "".join(_SPELT.get(letter, letter) for letter in unicodedata.normalize("NFC", text))
    plain = "".join(c for c in unicodedata.normalize("NFKD", spelt) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(plain.split()))


def _identifier(label: str) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", in_ascii(label)).strip("_")[:LONGEST].rstrip("_")
    if not name:
        return "column"
    if name[0].isdigit():
        name = f"n{name}"  # 4-1BB
    return f"{name}_" if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in _FUNCTIONS else name
