"""TorchScript archives are read for their tensors alone: nothing in them is imported, compiled or believed."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from mxbridge.errors import ModelError
from mxbridge.models.torchscript_files import read_torchscript
from mxbridge.models.weights_files import read_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.inner = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1).half())
        self.again = self.first  # one module under two names

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner[0](self.first(x))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is out of fashion
        torch.jit.trace(Net().eval(), torch.rand(1, 3, 8, 8)).save(tmp_path / "net.pt")
    return tmp_path / "net.pt"


def rewritten(
    path: Path, *, tree: bytes | None = None, storage: bytes | None = None, order: bytes | None = None
) -> Path:
    """The archive with another tree, first storage or byte order."""
    out = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if tree is not None and info.filename.endswith("/data.pkl"):
                content = tree
            elif storage is not None and info.filename.endswith("/data/0"):
                content = storage
            elif order is not None and info.filename.endswith("/byteorder"):
                content = order
            new.writestr(info.filename, content)
    return out


def test_tensors_under_their_names(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(script).state_dict()
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("compiled"))
    found, digest = read_weights(script)
    assert len(digest) == 64 and set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


def test_named_modules_become_nothing_else(script: Path) -> None:
    """The names of classes in the tree are never imported."""
    with zipfile.ZipFile(script) as archive:
        tree = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
    found = read_torchscript(
        rewritten(script, tree=tree.replace(b"__torch__.torch.nn.modules.conv", b"__torch__.antigravity.antigrav"))
    )
    assert "first.weight" in found


class Bomb:
    def __reduce__(self):
        return Path("executed").touch, ()


def bombs() -> list[tuple[str, bytes]]:
    holder = b"\x80\x02c__torch__.M\nM\n)\x81}(X\x01\x00\x00\x00a"
    return [
        ("a function", pickle.dumps(Bomb(), 2)),
        ("os.system", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R."),
        ("INST", b"(S'touch executed'\nios\nsystem\n."),
        ("a newer protocol", pickle.dumps({"a": Bomb()}, 4)),
        ("an extension", b"\x80\x02\x82\x01."),
        ("a large table", b"\x80\x02Nr\xff\xff\xff\x7f."),
        ("another attribute", holder + b"cbuiltins\neval\nub."),
        ("a name beside", holder + b"c__torch__evil\nsystem\nub."),
        ("a part of tensors", holder + b"ctorch._utils\n_rebuild_qtensor\nub."),
        ("cut short", holder),
        ("nothing", b""),
        ("text", b"hello"),
    ]


@pytest.mark.parametrize(("what", "tree"), bombs(), ids=[name for name, _ in bombs()])
def test_trees_that_hold_more_than_tensors(script: Path, tmp_path: Path, monkeypatch, what: str, tree: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as raised:
        read_weights(rewritten(script, tree=tree))
    assert "\n" not in str(raised.value) and raised.value.exit_code == 5
    assert not (tmp_path / "executed").exists()


def tensor_tree(offset: object, shape: object, strides: object, count: int = 108, key: str = "0") -> bytes:
    """A tree with one tensor on the first storage, its numbers as given."""

    class Reference:
        pass

    class Writer(pickle._Pickler):  # the plain one, so that names can be written that are not there
        def persistent_id(self, item):
            return ("storage", Storage, key, "cpu", count) if isinstance(item, Reference) else None

        def save(self, item, *args, **options):
            if item is Storage:
                self.write(b"ctorch\nFloatStorage\n")
            elif item is Rebuild:
                self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")
            else:
                super().save(item, *args, **options)

    class Storage:
        pass

    class Rebuild:
        pass

    out = io.BytesIO()
    writer = Writer(out, 2)
    out.write(b"\x80\x02c__torch__.M\nM\n)\x81}(X\x01\x00\x00\x00w")
    writer.save(Rebuild)
    writer.save((Reference(), offset, shape, strides))
    out.write(b"Rub.")
    return out.getvalue()


def test_tensors_that_reach_beyond_their_numbers(script: Path) -> None:
    sound = read_torchscript(rewritten(script, tree=tensor_tree(0, (2, 3), (3, 1))))
    assert sound["w"].shape == (2, 3)
    for bad in (
        tensor_tree(0, (200,), (1,)),
        tensor_tree(100, (9,), (1,)),
        tensor_tree(-1, (2,), (1,)),
        tensor_tree(0, (2,), (-1,)),
        tensor_tree(0, (2, 2), (1,)),
        tensor_tree(0, (2**62, 2**62), (1, 1)),
        tensor_tree(0, ("2",), (1,)),
        tensor_tree(0, (2,), (1,), count=10**12),
        tensor_tree(0, (2,), (1,), key="../../secret"),
    ):
        with pytest.raises(ModelError, match="cannot be read"):
            read_torchscript(rewritten(script, tree=bad))


def test_archives_that_are_damaged(script: Path) -> None:
    with pytest.raises(ModelError, match="is no network"):
        read_torchscript(rewritten(script, tree=b"\x80\x02]."))
    with pytest.raises(ModelError, match="not a TorchScript archive"):
        read_torchscript(rewritten(script, tree=b"\x80\x02" + b"]" * (3 << 20) + b"."))
    with pytest.raises(ModelError, match="another size than it says"):
        read_torchscript(rewritten(script, storage=b"\0" * 7))
    with pytest.raises(ModelError, match="byte order"):
        read_torchscript(rewritten(script, order=b"big"))
    whole = script.read_bytes()
    for end in (10, len(whole) // 2, len(whole) - 30):
        cut = script.with_name("cut.pt")
        cut.write_bytes(whole[:end])
        with pytest.raises(ModelError):
            read_weights(cut)
