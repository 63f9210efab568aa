"""Names, files, hashes and pins; nothing that would run code is ever run."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from mxbridge.errors import ModelError, UsageError
from mxbridge.models import catalogue
from mxbridge.models.card import CARD_FORMAT, ModelCard, read_card
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.training.loop import save_weights

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("MXBRIDGE_MODELS", str(folder))
    return folder


def weights(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    torch.save(ResidualUNet(2, 2).state_dict(), path)
    return path


class Hub:
    """A hub on this machine: two listings, the files, and a list of what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failures = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                if hub.failures:
                    hub.failures -= 1
                    return self.answer(503, b"")
                if self.path == f"/api/models/{catalogue.HUB_REPOSITORY}":
                    names = [{"rfilename": name} for name in ["README.md", *hub.files]]
                    return self.answer(200, json.dumps({"siblings": names}).encode())
                name = self.path.removeprefix(f"/{catalogue.HUB_REPOSITORY}/resolve/main/")
                return self.answer(200, hub.files[name]) if name in hub.files else self.answer(404, b"")

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    served = Hub()
    served.files = {
        "V2.pt": weights(tmp_path / "two.pt", 2).read_bytes(),
        "V10.pt": weights(tmp_path / "ten.pt").read_bytes(),
    }
    monkeypatch.setattr(catalogue, "HUB", f"http://127.0.0.1:{served.server.server_port}")
    monkeypatch.setattr(catalogue, "time", type("Hurry", (), {"sleep": staticmethod(lambda _: None)}))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield served
    served.server.shutdown()
    served.server.server_close()
    gc.collect()  # a refused download leaves its socket to the garbage collector


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- the embedded weights ---


def test_demo_is_here_and_is_what_its_card_says():
    demo = catalogue.resolve("demo")
    assert (demo.name, demo.known_as, demo.um_per_px) == ("NimbusDemo", "demo", 1.0)
    assert demo.sha256 == demo.card.sha256 == digest(demo.path.read_bytes())
    assert json.loads(demo.path.with_suffix(".json").read_text())["sha256"] == demo.sha256
    assert demo.path.stat().st_size <= 1_500_000
    assert demo.card.licence == "BSD-3-Clause" and demo.card.normalization_quantile == 0.999
    assert demo.card.settings_hash and demo.card.seed is not None and demo.card.steps


def test_demo_never_poses_as_nimbus():
    with pytest.raises(ModelError) as raised:
        catalogue.resolve()
    text = str(raised.value)
    assert raised.value.exit_code == 5 and "\n" not in text
    for way in ("mxbridge models fetch nimbus", "mxbridge models add FILE", "--model demo"):
        assert way in text
    with pytest.raises(ModelError):
        catalogue.resolve("nimbus")


def test_a_changed_embedded_file_is_noticed(tmp_path, monkeypatch):
    copied = tmp_path / catalogue.EMBEDDED.name
    copied.write_bytes(catalogue.EMBEDDED.read_bytes()[:-1] + b"x")
    copied.with_suffix(".json").write_text(catalogue.EMBEDDED.with_suffix(".json").read_text())
    monkeypatch.setattr(catalogue, "EMBEDDED", copied)
    with pytest.raises(ModelError, match="has changed"):
        catalogue.resolve("demo")


# --- files of the user ---


def test_add_and_resolve(tmp_path, home):
    file = weights(tmp_path / "lymph node.pt")
    added = catalogue.add(file, name="lymph")
    assert (added.name, added.known_as, added.um_per_px) == ("Nimbus", "lymph", 1.0)
    assert added.path.parent == home / "lymph" and added.sha256 == digest(file.read_bytes())
    file.unlink()
    assert catalogue.resolve("lymph") == added
    entry = next(e for e in catalogue.list_models() if e.known_as == "lymph")
    assert (entry.source, entry.sha256, entry.path) == ("added", added.sha256, added.path)
    assert json.loads(json.dumps(catalogue.show("lymph")))["sha256"] == added.sha256


def test_adding_twice_is_fine_and_another_file_needs_another_name(tmp_path):
    file = weights(tmp_path / "mine.pt")
    first = catalogue.add(file)
    assert catalogue.add(file) == first and first.known_as == "mine"
    with pytest.raises(ModelError, match="there already"):
        catalogue.add(weights(tmp_path / "other.pt", 1), name="mine")
    assert catalogue.resolve("mine") == first


def test_official_file_added_by_hand_is_the_default(tmp_path):
    catalogue.add(weights(tmp_path / "V1.pt"))
    assert catalogue.resolve().known_as == "nimbus" and catalogue.resolve().name == "Nimbus"


def test_a_card_comes_along(tmp_path):
    file = weights(tmp_path / "mine.pt")
    file.with_suffix(".json").write_text(ModelCard(name="Nimbus-LN", um_per_px=0.5).to_json())
    added = catalogue.add(file)
    assert (added.name, added.um_per_px) == ("Nimbus-LN", 0.5)
    assert catalogue.by_path(file).name == "Nimbus-LN"


def test_card_in_safetensors_metadata(tmp_path):
    file = tmp_path / "mine.safetensors"
    save_weights(ResidualUNet(2, 2), file, ModelCard(name="Mine", um_per_px=0.65).to_json())
    found = catalogue.resolve(file)
    assert (found.name, found.um_per_px, found.known_as) == ("Mine", 0.65, None)


def test_a_file_that_changed_after_it_was_added(tmp_path):
    added = catalogue.add(weights(tmp_path / "mine.pt"))
    weights(added.path, 5)
    with pytest.raises(ModelError, match="has changed"):
        catalogue.resolve("mine")
    added.path.unlink()
    with pytest.raises(ModelError, match="are gone"):
        catalogue.resolve("mine")


def test_a_folder_means_its_weights(tmp_path):
    folder = tmp_path / "w"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"0 weights files\. Is this the folder"):
        catalogue.resolve(folder)
    weights(folder / "a.pt")
    assert catalogue.resolve(folder).path == folder / "a.pt"
    weights(folder / "b.pt")
    with pytest.raises(ModelError, match="2 weights files"):
        catalogue.resolve(folder)
    weights(folder / "V9.pt"), weights(folder / "V12.pt")
    assert catalogue.resolve(folder).path == folder / "V12.pt"


@pytest.mark.parametrize("name", ["demo", "", "../up", "a/b", ".hidden", "x" * 80, "new\nline"])
def test_names_that_cannot_be(tmp_path, name, home):
    with pytest.raises(UsageError, match="cannot be the name"):
        catalogue.add(weights(tmp_path / "mine.pt"), name=name)
    assert not home.exists() or not any(home.rglob("*.pt"))


def test_unknown_names_list_what_there_is(tmp_path):
    catalogue.add(weights(tmp_path / "mine.pt"))
    for ask in (catalogue.resolve, catalogue.show, catalogue.fetch):
        with pytest.raises(ModelError, match="demo, deconvolution, nimbus, deepliif, mine"):
            ask("yours")
    with pytest.raises(ModelError, match="no weights file"):
        catalogue.resolve(tmp_path / "absent.pt")


# --- bad files ---


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def bombs(folder: Path, mark: Path) -> list[Path]:
    folder.mkdir()
    torch.save({"final_conv.weight": Bomb(mark)}, folder / "zip.pt")
    torch.save(Bomb(mark), folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "bare.pt").write_bytes(pickle.dumps(Bomb(mark)))
    (folder / "named.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
    return sorted(folder.iterdir())


def test_weights_that_would_run_code(tmp_path, home):
    mark = tmp_path / "executed"
    for bomb in bombs(tmp_path / "bombs", mark):
        with pytest.raises(ModelError) as raised:
            catalogue.add(bomb)
        assert raised.value.exit_code == 5 and "\n" not in str(raised.value)
        assert not mark.exists(), bomb
        assert not any(p.suffix in catalogue.SUFFIXES for p in home.rglob("*"))
    assert [e.known_as for e in catalogue.list_models()] == ["demo", "deconvolution", "nimbus", "deepliif"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pt", b""),
        ("text.pt", b"not weights"),
        ("zip.pt", b"PK\x03\x04" + b"\0" * 40),
        ("empty.safetensors", b""),
        ("huge-header.safetensors", b"\xff" * 8 + b"{}"),
        ("bad-json.safetensors", (20).to_bytes(8, "little") + b"{" * 20),
        ("weights.docx", b"x"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as raised:
        catalogue.add(tmp_path / name)
    assert name in str(raised.value) and "\n" not in str(raised.value)


def test_weights_of_another_network(tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(ModelError):
        catalogue.add(tmp_path / "other.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a: b"},
        {"name": ""},
        {"name": 3},
        {"name": "x" * 100},
        {"um_per_px": 0},
        {"um_per_px": "1"},
        {"um_per_px": float("nan")},
        {"um_per_px": True},
        {"normalization_quantile": 1.5},
        {"channels": "marker"},
        {"seed": "1"},
        {"metrics": []},
        {"sha256": 5},
    ],
)
def test_cards_that_make_no_sense(tmp_path, change):
    file = weights(tmp_path / "mine.pt")
    file.with_suffix(".json").write_text(json.dumps({"format": CARD_FORMAT} | change))
    with pytest.raises(ModelError):
        catalogue.resolve(file)


def test_a_card_of_other_weights_and_a_system_that_is_not_installed(tmp_path):
    file = weights(tmp_path / "mine.pt")
    file.with_suffix(".json").write_text(ModelCard(sha256="0" * 64).to_json())
    with pytest.raises(ModelError, match="its card says"):
        catalogue.add(file)
    file.with_suffix(".json").write_text(ModelCard(system="nonesuch").to_json())
    with pytest.raises(ModelError, match="no system 'nonesuch'"):
        catalogue.add(file)


@pytest.mark.parametrize("content", ['{"name": "A run, no card"}', "[1]", "broken {", "[" * 100_000])
def test_other_json_beside_the_weights_is_left_alone(tmp_path, content):
    file = weights(tmp_path / "mine.pt")
    file.with_suffix(".json").write_text(content)
    assert read_card(file) is None
    assert catalogue.resolve(file).name == "Nimbus"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"models": {"../x": {}}, "pins": {}}', '{"models": {"x": {}}, "pins": {}}']
)
def test_a_damaged_record(home, content):
    home.mkdir()
    (home / "catalogue.json").write_text(content)
    with pytest.raises(ModelError, match="damaged"):
        catalogue.list_models()


# --- the network ---


def test_fetch_takes_the_highest_number_and_pins_it(hub, home):
    said = []
    fetched = catalogue.fetch(say=said.append)
    assert fetched.path == home / "nimbus" / "V10.pt" and fetched.name == "Nimbus"
    assert fetched.sha256 == digest(hub.files["V10.pt"]) and any(fetched.sha256 in line for line in said)
    pins = json.loads((home / "catalogue.json").read_text())["pins"]
    assert pins == {f"{catalogue.HUB_REPOSITORY}/V10.pt": fetched.sha256}
    assert catalogue.resolve() == fetched
    assert [e.source for e in catalogue.list_models()] == ["embedded", "built in", "not here", "fetched"]
    assert not list(home.glob("download-*"))


def test_fetching_again_downloads_nothing(hub):
    first = catalogue.fetch()
    hub.asked.clear()
    assert catalogue.fetch() == first
    assert not [path for path in hub.asked if path.endswith(".pt")]


def test_another_content_under_a_pinned_name(hub, home, tmp_path):
    first = catalogue.fetch()
    first.path.unlink()
    (home / "catalogue.json").write_text(
        json.dumps({"models": {}, "pins": json.loads((home / "catalogue.json").read_text())["pins"]})
    )
    hub.files["V10.pt"] = weights(tmp_path / "evil.pt", 9).read_bytes()
    with pytest.raises(ModelError, match="not the file fetched before"):
        catalogue.fetch()
    assert not first.path.exists()


def test_a_newer_version_replaces_the_older(hub, tmp_path):
    catalogue.fetch()
    hub.files["V11.pt"] = weights(tmp_path / "eleven.pt", 11).read_bytes()
    assert catalogue.fetch().path.name == "V11.pt"
    assert catalogue.resolve().sha256 == digest(hub.files["V11.pt"])


def test_short_failures_are_tried_again(hub):
    hub.failures = catalogue.DOWNLOAD_TRIES - 1
    assert catalogue.fetch().known_as == "nimbus"


def test_a_hub_that_stays_away(hub, home):
    hub.failures = 100
    with pytest.raises(ModelError) as raised:
        catalogue.fetch()
    assert "models add FILE" in str(raised.value) and "--model demo" in str(raised.value)
    assert not list(home.glob("download-*")) and not list(home.rglob("*.pt"))


def test_no_network_at_all(monkeypatch, hub):
    monkeypatch.setattr(catalogue, "HUB", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="cannot be fetched") as raised:
        catalogue.fetch()
    assert "\n" not in str(raised.value)


def test_the_hub_sends_something_else(hub, home, tmp_path):
    mark = tmp_path / "executed"
    hub.files = {"V3.pt": bombs(tmp_path / "bombs", mark)[0].read_bytes()}
    with pytest.raises(ModelError):
        catalogue.fetch()
    assert not mark.exists() and not list(home.rglob("V*.pt"))
    hub.files = {"weights.h5": b"x"}
    with pytest.raises(ModelError, match="no V<number>"):
        catalogue.fetch()


# --- ---


def test_importing_the_catalogue_loads_nothing_heavy():
    code = (
        "import sys, mxbridge.models.catalogue; heavy = {'torch', 'numpy', 'pooch', 'requests', 'safetensors'} & set(sys.modules);"
        "print(sorted(heavy)); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_home_follows_the_environment(monkeypatch, tmp_path):
    assert catalogue.models_home() == tmp_path / "models"
    monkeypatch.delenv("MXBRIDGE_MODELS")
    assert catalogue.models_home().name == "models" and "mxbridge" in str(catalogue.models_home())


def test_two_at_once_both_arrive(tmp_path):
    files = [weights(tmp_path / f"m{k}.pt", k) for k in range(4)]
    threads = [threading.Thread(target=partial(catalogue.add, file)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {e.known_as for e in catalogue.list_models()} >= {"m0", "m1", "m2", "m3"}
