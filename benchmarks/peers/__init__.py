"""Other programs to measure against, each in a virtual environment of its own, made when first needed.

They live in ``benchmarks/.peers`` (or where MXBRIDGE_PEERS says: a folder with one environment per peer, by its name). MAXIM and
DeepLIIF are checkouts of their repositories there, made by hand because their licences allow academic use only.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Checkout:
    """A repository that is no package. files: sha256 of what is run of it, at that commit."""

    address: str
    commit: str
    licence: str
    files: Mapping[str, str]


CHECKOUTS = {
    "maxim": Checkout(
        "https://github.com/mahmoodlab/MAXIM",
        "f4856045fb9bec1869943e455b8e9672a9f14e27",
        "CC BY-NC-ND 4.0",
        {
            "maxim/dataloader.py": "25bc3b282dfeb42e7c96ad2155d6ee81ecc5e9935d6a2c8ec3fe3c40db709c7b",
            "maxim/networks.py": "28b86bf764fae5289e6c9d920ec84321c115eb3e4e884583809184e27a8a576b",
            "maxim/trainer.py": "6436571b7b7f7300f22a600d4bfd874f6c62e5f2574fb52d3e88d33046166777",
        },
    ),
    "deepliif-source": Checkout(
        "https://github.com/nadeemlab/DeepLIIF",
        "eab8bddd031d42cf6b12546d9081babb41f6b7e5",
        "Apache 2.0 with the Commons Clause, for non-commercial academic use",
        {
            "deepliif/models/__init__.py": "f3555efca0313b9b44d7964fb1a221641e8d63baff21d55cf9ea46ef9367d593",
            "deepliif/models/DeepLIIF_model.py": "8e8004df3f8b422d6032da35f64dc751318c52a077ac34cda0af22cd0e97543d",
            "deepliif/models/networks.py": "02445c59b376cd39f532057a391216409fe7979daa0fd28e1f35f96805c377ba",
            "deepliif/options/__init__.py": "4984f6cca87b8102b22594f77831ffc90662933d099a75fa4c056d802a4596c2",
            "deepliif/postprocessing.py": "83e160c9fa0350b7e0222dbda3b4285aab93f9b5d5e68314e14cf195bafdb23b",
            "deepliif/util/__init__.py": "3be8d3d44f140df75ccb18c894413d13b46047975d050732375f5f8459bcb42c",
        },
    ),
}


def home() -> Path:
    given = os.environ.get("MXBRIDGE_PEERS")
    return Path(given) if given else HERE.parent / ".peers"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment; made, or completed, from ``<peer>.txt`` when versions pinned there are not in it.

    Raises RuntimeError when it cannot be installed (no network).
    """
    python = home() / peer / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = requirements(peer)
    if not python.exists():
        _tell(f"making an environment for {peer} in {home() / peer} (a download of some hundred MB)")
        venv.create(home() / peer, with_pip=True)
    if installed(python, list(wanted)) != wanted:
        _tell(f"installing {', '.join(f'{name} {number}' for name, number in wanted.items())}")
        command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(HERE / f"{peer}.txt")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        found = installed(python, list(wanted))
        if done.returncode or found != wanted:
            raise RuntimeError(f"{peer} cannot be installed; there is {found}: {done.stderr[-800:]}")
    return python


def source(peer: str) -> Path:
    """Where the checkout of a peer is. Raises RuntimeError where it is missing or another version."""
    place, wanted = home() / peer, CHECKOUTS[peer]
    for name, digest in wanted.files.items():
        path = place / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise RuntimeError(
                f"no {peer} to measure against ({path} is missing or another version). Its licence is {wanted.licence}; where "
                f"that suits you: git clone {wanted.address} {place} && git -C {place} checkout {wanted.commit}"
            )
    return place


def requirements(peer: str) -> dict[str, str]:
    """Versions by package, as pinned in ``<peer>.txt``."""
    lines = (HERE / f"{peer}.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.partition("#")[0].strip().partition("==") for line in lines)
    return {name: number for name, _, number in pins if name}


def installed(python: Path, packages: list[str]) -> dict[str, str]:
    """Versions (without local parts such as ``+cpu``) of those packages that an interpreter has."""
    code = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\nfor name in sys.argv[1:]:\n"
        "    try:\n        print(name, version(name))\n    except PackageNotFoundError:\n        pass\n"
    )
    text = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True).stdout
    pairs = (line.split() for line in text.splitlines())
    return {name: number.partition("+")[0] for name, number in pairs}


def folder_of(python: Path, package: str) -> Path:
    """Where an environment keeps a package; nothing of it is imported."""
    code = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]).submodule_search_locations[0])"
    done = subprocess.run([python, "-c", code, package], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip())


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
