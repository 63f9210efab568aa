"""The hash of the simulator: the same everywhere, blind to comments, and not to numbers."""

from __future__ import annotations

import pytest

from mxbridge.models import catalogue
from mxbridge.training import frozen

CODE = '''"""About."""
import math

LOW = 3.5  # why
"""What it is."""

def area(r: float) -> float:
    """In µm²."""
    if r > 1:
        return math.pi * r**2
    return f"{r} of 'a # b'"
'''


def test_the_embedded_weights_are_of_this_simulator():
    """Who changes the simulator must train anew: `mxbridge train nimbus --demo`."""
    assert catalogue.resolve("demo").card.settings_hash == frozen.simulator_hash()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# why", "# for another reason"),
        ("  # why", ""),
        ("About.", "About this."),
        ("In µm²", "In square µm"),
        ("What it is.", "What it was."),
        ("\n", "\r\n"),
        ("import math\n", "import math\n\n\n"),
        ("r > 1", "r  >  1"),
    ],
)
def test_words_do_not_count(old, new):
    assert old in CODE and frozen.bare_code(CODE.replace(old, new)) == frozen.bare_code(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("3.5", "3.6"),
        ("r**2", "r**3"),
        ("r > 1", "r >= 1"),
        ("    return f", "        return f"),
        ("'a # b'", "'a # c'"),
        ("LOW", "HIGH"),
    ],
)
def test_code_counts(old, new):
    assert old in CODE and frozen.bare_code(CODE.replace(old, new)) != frozen.bare_code(CODE)


def test_every_module_counts(tmp_path, monkeypatch):
    for name in (*frozen.SIMULATOR, *frozen.RECIPE):
        (tmp_path / f"{name}.py").write_bytes((frozen.ROOM / f"{name}.py").read_bytes())
    before = frozen.simulator_hash(), frozen.recipe_hash()
    monkeypatch.setattr(frozen, "ROOM", tmp_path)
    assert (frozen.simulator_hash(), frozen.recipe_hash()) == before
    for name in frozen.SIMULATOR:
        file = tmp_path / f"{name}.py"
        kept = file.read_bytes()
        file.write_bytes(kept + b"\nX = 1\n")
        assert frozen.simulator_hash() != before[0] and frozen.recipe_hash() == before[1]
        file.write_bytes(kept)
    with (tmp_path / "losses.py").open("a") as stream:
        stream.write("\nX = 1\n")
    assert frozen.recipe_hash() != before[1]
