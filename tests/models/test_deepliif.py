"""DeepLIIF folders: the passes that are needed and no others, equal to the published program, whatever the files are called."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deepliif_models import write_folder
from PIL import Image

from mxbridge.errors import ModelError, UnknownName, UsageError
from mxbridge.models import catalogue
from mxbridge.models.deepliif import DeepLIIF, open_deepliif
from mxbridge.models.translators import WEIGHTINGS, Weighting, open_translator
from mxbridge.networks.unet_generator import UnetGenerator
from mxbridge.stream.engine import Engine

DEEPLIIF = ("Hematoxylin", "DAPI", "Lap2", "Marker", "Seg")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MXBRIDGE_MODELS", str(tmp_path / "models-home"))
    return tmp_path / "models-home"


def windows(count: int = 2, planes: int = 3, side: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(count, planes, side, side, generator=generator) * 2 - 1) * torch.linspace(1, 0.4, count)[
        :, None, None, None
    ]


def by_hand(
    nets: dict[str, torch.nn.Module], window: torch.Tensor, values: tuple[float, ...], segs: list[str]
) -> dict[str, torch.Tensor]:
    """Facts 2.5 for one window."""
    with torch.inference_mode():
        made = {name: nets[f"G{at}"](window) for at, name in enumerate(DEEPLIIF[:4], 1)}
        seen = [window, *(made[name] for name in DEEPLIIF[:4])]
        made["Seg"] = sum(nets[net](x) * w for net, x, w in zip(segs, seen, values, strict=True))
        return made


@pytest.mark.parametrize(("naming", "name"), [("G5", "paper"), ("GS", "test")])
def test_all_images_of_several_windows(tmp_path: Path, naming: str, name: str) -> None:
    segs = [f"G5{at}" for at in range(1, 6)] if naming == "G5" else [f"GS{at}" for at in range(5)]
    nets = write_folder(tmp_path / "m", " ".join(["G1 G2 G3 G4", *segs]))
    model = open_translator(tmp_path / "m")
    assert (model.name, model.um_per_px, model.window, model.input_images, model.segs) == (
        "DeepLIIF",
        0.25,
        256,
        1,
        ("Seg",),
    )
    assert model.images_for("all") == DEEPLIIF and model.marker_image == "Marker"
    assert model.fluorescence == ("DAPI", "Lap2", "Marker") and model.brightfield == ("Hematoxylin",)
    with torch.inference_mode():
        found = model.passes(model.images_for("all"), Weighting.parse(name, 5))(windows())
    assert tuple(found) == DEEPLIIF
    for at, window in enumerate(windows()):
        for image, expected in by_hand(nets, window[None], WEIGHTINGS[name], segs).items():
            torch.testing.assert_close(found[image][at : at + 1], expected, atol=1e-4, rtol=0)


def test_only_what_is_needed_runs_and_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "m")
    model = open_deepliif(tmp_path / "m")
    loaded: list[str] = []
    load = DeepLIIF._load
    monkeypatch.setattr(DeepLIIF, "_load", lambda self, step: loaded.append(step.net) or load(self, step))
    test, paper = Weighting.parse("test", 5), Weighting.parse("paper", 5)
    expected = {
        ("score", test): ("G4", "G55", "G51"),
        ("cells", test): ("G4", "G55", "G51"),
        ("channels", test): ("G1", "G2", "G3", "G4", "G55", "G51"),
        ("score", paper): ("G1", "G2", "G3", "G4", "G52", "G53", "G54", "G55", "G51"),
        ("score", Weighting.parse("1,0,0,0,0", 5)): ("G4", "G51"),
    }
    for (wanted, weighting), nets in expected.items():
        loaded.clear()
        passes = model.passes(model.images_for(wanted), weighting)
        assert not loaded
        with torch.inference_mode():
            passes(windows(1))
            passes(windows(1))
        assert passes.networks == tuple(loaded) == nets
        assert passes.describe()["networks"] == list(nets)
    assert model.passes(("Lap2",), None).networks == ("G3",)
    assert model.passes(model.images_for("cells", separate=True), test).networks == ("G3", "G4", "G55", "G51")
    with pytest.raises(UnknownName, match="Hematoxylin, DAPI"):
        model.passes(("Ki67",), None)
    with pytest.raises(UsageError, match="3 numbers"):
        model.passes(("Seg",), Weighting("custom", (0.5, 0.25, 0.25)))


def test_frozen_on_the_window_itself_changes_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    model = open_deepliif(tmp_path / "m")
    window = windows(1)
    passes = model.passes(DEEPLIIF, None)
    with torch.inference_mode():
        own = passes(window)
        frozen = passes.frozen(window)
        for image, expected in own.items():
            torch.testing.assert_close(frozen(window)[image], expected, atol=1e-4, rtol=0)
        other = frozen(windows(2)[1:])["Seg"]
        fresh = model.passes(DEEPLIIF, None)(windows(2)[1:])["Seg"]
    assert (other - fresh).abs().max() > 0.01  # another window has other statistics of its own
    assert "pooled over 1" in frozen.describe()["statistics"]


@pytest.mark.gpu
def test_cuda_equals_cpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    write_folder(tmp_path / "m")
    model = open_deepliif(tmp_path / "m")
    cpu, cuda = Engine(device="cpu"), Engine(device="cuda")
    expected = cpu.windows(model.passes(DEEPLIIF, None), windows())
    found = cuda.windows(cuda.prepare_windows(model.passes(DEEPLIIF, None)), windows().cuda())
    for image in DEEPLIIF:
        torch.testing.assert_close(found[image].cpu(), expected[image], atol=1e-3, rtol=0)
    frozen = cuda.frozen(cuda.prepare_windows(model.passes(DEEPLIIF, None)), windows().cuda())
    with torch.inference_mode():
        own = model.passes(DEEPLIIF, None).frozen(windows())(windows())
    for image, pixels in cuda.windows(frozen, windows().cuda()).items():
        torch.testing.assert_close(pixels.cpu(), own[image], atol=1e-3, rtol=0)


def test_torchscript_is_read_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "eager", "G1 GS0 GS1", modalities_no=1)
    write_folder(tmp_path / "script", "G1 GS0 GS1", None, modalities_no=1)
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("compiled"))
    eager, script = (open_deepliif(tmp_path / name) for name in ("eager", "script"))
    assert eager.folder.prefix == "latest" and script.folder.prefix is None
    with torch.inference_mode():
        both = [model.passes(model.images, None)(windows(1)) for model in (eager, script)]
    assert set(both[0]) == {"mod1", "Seg"}
    for image in both[0]:
        assert torch.equal(both[0][image], both[1][image])


# --- kinds ---


def test_extended_models_segment_each_image(tmp_path: Path) -> None:
    nets = write_folder(tmp_path / "m", "G_1 G_2 GS_1 GS_2", model="DeepLIIFExt", modalities_no=2, seg_gen=True)
    model = open_deepliif(tmp_path / "m")
    assert (model.name, model.images, model.segs, model.n_segs) == (
        "DeepLIIFExt",
        ("mod1", "mod2", "Seg1", "Seg2"),
        ("Seg1", "Seg2"),
        0,
    )
    assert model.passes(("Seg2",), None).networks == ("G_1", "G_2", "GS_2")
    assert model.peer_weighting() is None and model.fills() == dict.fromkeys(model.images, (0, 0, 0))
    window = windows(1)
    with torch.inference_mode():
        found = model.passes(model.images, None)(window)
        first, second = nets["G_1"](window), nets["G_2"](window)
        torch.testing.assert_close(
            found["Seg2"], nets["GS_2"](torch.cat([window, first, second], 1)), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(found["Seg1"], nets["GS_1"](torch.cat([window, first, first], 1)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("nets", "options", "images", "runs"),
    [
        ("G_1 G_2", {"model": "SDG", "modalities_no": 2}, ("mod1", "mod2"), ("G_1", "G_2")),
        ("G_1", {"model": None, "modalities_no": None}, ("mod1",), ("G_1",)),
        ("GA_1 GB_1", {"model": "CycleGAN", "modalities_no": 1}, ("mod1",), ("GA_1",)),
        ("GA_1 GB_1", {"model": "CycleGAN", "modalities_no": 1, "BtoA": True}, ("mod1",), ("GB_1",)),
        ("GB_1", {"model": None, "modalities_no": None}, ("mod1",), ("GB_1",)),
        ("G1 GS0 GS1", {"model": "DeepLIIFKD", "modalities_no": 1, "modalities_names": "['IHC', 'CD3']"}, ("CD3", "Seg"), ("G1", "GS1", "GS0")),
        ("GS0", {"modalities_no": 0}, ("Seg",), ("GS0",)),
        ("G1 G2", {"modalities_no": 2, "seg_gen": False}, ("mod1", "mod2"), ("G1", "G2")),
    ],
)  # fmt: skip
def test_relatives(tmp_path: Path, nets: str, options: dict, images: tuple, runs: tuple) -> None:
    write_folder(tmp_path / "m", nets, **options)
    model = open_deepliif(tmp_path / "m")
    assert model.images == images
    assert model.passes(images, None).networks == runs
    if "Seg" not in images:
        with pytest.raises(UsageError, match="no segmentation"):
            model.images_for("score")


def test_several_pictures_side_by_side(tmp_path: Path) -> None:
    from plain_generators import plain_resnet

    write_folder(
        tmp_path / "m", "G_1", make=lambda _: plain_resnet(inputs=6, blocks=1), model="SDG", modalities_no=1, input_no=2
    )
    model = open_deepliif(tmp_path / "m")
    assert model.input_images == 2
    with torch.inference_mode():
        assert model.passes(("mod1",), None)(windows(1, 6))["mod1"].shape == (1, 3, 256, 256)
    write_folder(tmp_path / "n", "G_1", model="SDG", modalities_no=1, input_no=2)
    with pytest.raises(ModelError, match="takes 3 planes and makes 3, expected 6 and 3"):
        open_deepliif(tmp_path / "n").passes(("mod1",), None)(windows(1, 6))


def test_the_published_defaults(tmp_path: Path) -> None:
    write_folder(tmp_path / "old")
    old = open_deepliif(tmp_path / "old")
    assert old.peer_weighting() == Weighting("test", (0.5, 0, 0, 0, 0.5))
    assert list(old.fills().values()) == [(201, 211, 208), (10, 10, 10), (0, 0, 0), (10, 10, 10), (0, 0, 0)]
    names = "['IHC', 'Hema', 'DAPI', 'Lap2', 'Marker']"
    colours = "[(200, 200, 200), (1, 2, 3), (4, 5, 6), (7, 8, 9)]"
    write_folder(tmp_path / "new", modalities_names=names, background_colors=colours)
    new = open_deepliif(tmp_path / "new")
    assert new.images == DEEPLIIF and new.peer_weighting() == Weighting.parse("paper", 5)
    assert new.fills()["DAPI"] == (1, 2, 3)
    weights = "[0.2, 0.2, 0.2, 0.2, 0.2] \t[default: None]"
    write_folder(tmp_path / "own", modalities_names=names, seg_weights=weights)
    assert open_deepliif(tmp_path / "own").peer_weighting() == Weighting("options", (0.2,) * 5)


def test_weightings_by_name_and_by_number() -> None:
    assert Weighting.parse(None, 5) == Weighting("paper", (0.25, 0.15, 0.25, 0.1, 0.25))
    assert Weighting.parse(None, 3) == Weighting("uniform", (1 / 3,) * 3)
    assert Weighting.parse("0.5, 0,0,0, .5", 5).name == "test"
    assert Weighting.parse("1,0,0,0,0", 5).to_json() == {"name": "custom", "values": [1, 0, 0, 0, 0]}
    for text, segs in (
        ("papre", 5),
        ("paper", 3),
        ("1,0", 5),
        ("1,1,0,0,0", 5),
        ("2,-1,0,0,0", 5),
        ("nan,1,0,0,0", 5),
        ("paper", 0),
    ):
        with pytest.raises(UsageError):
            Weighting.parse(text, segs)


# --- folders that are not what they should be ---


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    (tmp_path / "m" / "latest_net_G3.pth").unlink()
    (tmp_path / "m" / "latest_net_G54.pth").unlink()
    with pytest.raises(ModelError, match=r"lacks latest_net_G3.pth, latest_net_G54.pth") as raised:
        open_translator(tmp_path / "m")
    assert raised.value.exit_code == 5


@pytest.mark.parametrize(
    ("nets", "options", "message"),
    [
        ("G1 G51 G52 G_1", {"modalities_no": 1}, "mixes networks of different kinds"),
        ("G1 G51 G52 GS1", {"modalities_no": 1}, "mixes networks of different kinds"),
        ("G1 GS0 GS1", {"model": "CycleGAN"}, "says model CycleGAN, but the files"),
        ("G1 GS0 GS1", {"model": "Other"}, "says model 'Other'"),
        ("G1 GS0 GS1", {"modalities_no": "__import__('os').system('touch executed')"}, "modalities_no is .* expected a whole number"),
        ("G1 GS0 GS1", {"modalities_no": "True"}, "expected a whole number"),
        ("G1 GS0 GS1", {"modalities_no": 99}, "more than any model"),
        ("G1 GS0 GS1", {"modalities_no": 1, "scale_size": 500}, "no side of windows"),
        ("G1 GS0 GS1", {"modalities_no": 1, "modalities_names": "['a', '../b']"}, "cannot be the names"),
        ("G1 GS0 GS1", {"modalities_no": 1, "modalities_names": "['a', 'Seg']"}, "cannot be the names"),
        ("G1 GS0 GS1", {"modalities_no": 1, "modalities_names": "{'a': 1}"}, "not a list of 2 names"),
        ("G1 GS0 GS1", {"modalities_no": 1, "background_colors": "[(1, 2, 300)]"}, "not a list of 1 colours"),
        ("G1 GS0 GS1", {"modalities_no": 1, "seg_weights": "'abc'"}, "not a list of numbers"),
        ("G1 GS0 GS1", {"modalities_no": 1, "x": "1" * 2000}, "line 7: too long"),
    ],
)  # fmt: skip
def test_folders_that_contradict_themselves(
    tmp_path: Path, monkeypatch, nets: str, options: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "m", nets, **options)
    with pytest.raises(ModelError, match=message) as raised:
        open_translator(tmp_path / "m")
    assert "\n" not in str(raised.value) and not (tmp_path / "executed").exists()


def test_code_in_options_that_do_not_matter_is_said_and_never_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "m", "G1 GS0 GS1", modalities_no=1, name="open('executed', 'w').close()", phase="(" * 900)
    translator = open_translator(tmp_path / "m")
    assert translator.images == ("mod1", "Seg")
    (warning,) = translator.warnings
    assert "name looks like code" in warning and not (tmp_path / "executed").exists()


def test_an_option_file_without_options_is_said(tmp_path: Path) -> None:
    write_folder(tmp_path / "m")
    (tmp_path / "m" / "train_opt.txt").write_bytes(bytes(range(256)) * 100)
    (warning,) = open_translator(tmp_path / "m").warnings
    assert "train_opt.txt holds no options" in warning


def test_which_state_of_a_model(tmp_path: Path) -> None:
    for prefix in ("100", "iter_500"):
        write_folder(tmp_path / "m", "G1 GS0 GS1", prefix, modalities_no=1)
    with pytest.raises(ModelError, match="several states of a model: 100, iter_500"):
        open_translator(tmp_path / "m")
    assert open_translator(tmp_path / "m" / "iter_500_net_G1.pth").folder.prefix == "iter_500"
    write_folder(tmp_path / "m", "G1 GS0 GS1", "latest", modalities_no=1)
    write_folder(tmp_path / "m", "G1", None, modalities_no=1)
    assert open_translator(tmp_path / "m").folder.prefix == "latest"


def test_networks_that_are_none(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", "G1 GS0 GS1", modalities_no=1)
    net = tmp_path / "m" / "latest_net_G1.pth"
    for content, message in ((b"nothing", "not a file of weights"), (b"", "not a file of weights. It may be")):
        net.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            open_deepliif(tmp_path / "m").passes(("mod1",), None)(windows(1))
    torch.save({"a": torch.zeros(1)}, net)
    with pytest.raises(ModelError, match=r"latest_net_G1.pth: these are not the weights of a ResNet"):
        open_deepliif(tmp_path / "m").passes(("mod1",), None)(windows(1))
    write_folder(tmp_path / "r", "G1 GS0 GS1", modalities_no=1, padding="replicate")
    with pytest.raises(ModelError, match="replicated borders"):
        open_deepliif(tmp_path / "r").passes(("mod1",), None)(windows(1))
    with pytest.raises(ModelError, match="windows are 256"):
        from plain_generators import plain_unet

        write_folder(tmp_path / "d", "GS0", make=lambda _: plain_unet(width=1, downs=9), modalities_no=0)
        open_deepliif(tmp_path / "d").passes(("Seg",), None)(windows(1))


# --- the catalogue ---


def test_a_folder_gets_a_name(tmp_path: Path, home: Path) -> None:
    with pytest.raises(ModelError, match="Zenodo record 4751737") as raised:
        open_translator("deepliif")
    assert "--model deconvolution" in str(raised.value) and raised.value.exit_code == 5
    with pytest.raises(ModelError, match="not fetched by mxbridge"):
        catalogue.fetch("deepliif")
    write_folder(tmp_path / "m", "G1 GS0 GS1", modalities_no=1)
    (tmp_path / "m" / "notes.txt").write_text("mine")
    added = catalogue.add(tmp_path / "m", "deepliif")
    assert {p.name for p in added.path.iterdir()} == {
        "latest_net_G1.pth", "latest_net_GS0.pth", "latest_net_GS1.pth", "train_opt.txt",
    }  # fmt: skip
    assert added.sha256 == catalogue.by_path(tmp_path / "m").sha256
    model = open_translator("deepliif")
    assert model.weights_sha256 == added.sha256 and model.describe()["weights_sha256"] == added.sha256
    entry = next(e for e in catalogue.list_models() if e.known_as == "deepliif")
    assert (entry.system, entry.source, entry.measures_as, entry.um_per_px) == ("deepliif", "added", "DeepLIIF", 0.25)
    shown = json.loads(json.dumps(catalogue.show("deepliif")))
    assert shown["sha256"] == added.sha256 and shown["card"]["outputs"] == ["mod1"]
    net = added.path / "latest_net_G1.pth"
    net.write_bytes(net.read_bytes() + b"x")
    with pytest.raises(ModelError, match="has changed"):
        open_translator("deepliif")


def test_a_folder_is_looked_at_whole_before_it_is_taken_in(tmp_path: Path, home: Path) -> None:
    write_folder(tmp_path / "m", "G1 GS0 GS1", modalities_no=1)
    torch.save({"a": torch.zeros(1)}, tmp_path / "m" / "latest_net_GS1.pth")
    with pytest.raises(ModelError, match="latest_net_GS1"):
        catalogue.add(tmp_path / "m", "broken")
    assert not list(home.rglob("*.pth"))
    with pytest.raises(UsageError, match="deconvolution"):
        write_folder(tmp_path / "n", "G1 GS0 GS1", modalities_no=1)
        catalogue.add(tmp_path / "n", "deconvolution")


def test_other_weights_translate_nothing() -> None:
    with pytest.raises(ModelError, match="nimbus weights do not translate slides"):
        open_translator("demo")


# --- the published program ---


@pytest.fixture(scope="module")
def oracle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder, source = tmp_path_factory.mktemp("oracle"), shared / "oracles" / "deepliif"
    for archive in ("weights_eager_pth.tar.xz", "weights_torchscript_G1_G51.tar.xz"):
        with tarfile.open(source / archive) as opened:
            opened.extractall(folder, filter="data")
    rgb = np.asarray(Image.open(source / "output_512" / "22_2.png").convert("RGB"), np.float32)
    return {
        "model": open_deepliif(folder / "small_model"),
        "script": folder / "small_model_torchscript",
        "window": torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255 * 2 - 1,
        "every": np.load(source / "raw_every_8th_pixel_float32.npz"),
        "crop": np.load(source / "raw_crop_float32.npz"),
        "float32": json.loads((source / "meta.json").read_text())["float32_minus_float64_max_abs"],
    }


def far(found: torch.Tensor, oracle: dict, name: str) -> float:
    """Largest difference from the oracle's crop and, where there is one, its every eighth pixel."""
    parts = [np.abs(found[0, :, 224:272, 224:272].numpy() - oracle["crop"][name].reshape(3, 48, 48)).max()]
    if name in oracle["every"]:
        parts.append(np.abs(found[0, :, 1::8, 2::8].numpy() - oracle["every"][name].reshape(3, 64, 64)).max())
    return float(max(parts))


@pytest.mark.shared
@pytest.mark.parametrize("forced", [False, True])
def test_every_network_of_the_oracle(oracle: dict, forced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ten times what float32 differs from float64, with direct convolutions and with Winograd's everywhere."""
    if forced:
        monkeypatch.setattr("mxbridge.networks.winograd.FEWEST_CHANNELS", 1)
    model: DeepLIIF = oracle["model"]
    made = {}
    with torch.inference_mode():
        for step in model.plan(DEEPLIIF, Weighting.parse("uniform", 5)):
            seen = oracle["window"] if step.sees == ("input",) else made[step.sees[0]]
            found = model._load(step)(seen.clone())
            made.setdefault(step.makes, found)
            assert far(found, oracle, step.net) <= 10 * oracle["float32"][step.net], step.net


@pytest.mark.shared
@pytest.mark.parametrize(
    ("weighting", "name"), [("test", "G5"), ("uniform", "G5_uniform"), ("paper", "G5_paper_weights")]
)
def test_segmentation_of_the_oracle(oracle: dict, weighting: str, name: str) -> None:
    passes = oracle["model"].passes(("Seg",), Weighting.parse(weighting, 5))
    with torch.inference_mode():
        assert far(passes(oracle["window"])["Seg"], oracle, name) <= 4e-4
    assert oracle["model"].peer_weighting().name == "test"


@pytest.mark.shared
def test_torchscript_of_the_oracle(oracle: dict) -> None:
    from mxbridge.models.deepliif import load_generator

    with torch.inference_mode():
        for net in ("G1", "G51"):
            found = load_generator(oracle["script"] / f"{net}.pt")(oracle["window"].clone())
            assert torch.equal(found, load_generator(oracle["model"].folder.nets[net])(oracle["window"].clone()))
    with pytest.raises(ModelError, match=r"lacks G2.pt, G3.pt, G4.pt, G52.pt"):
        open_deepliif(oracle["script"])


@pytest.mark.shared
def test_running_statistics_of_files_do_not_matter(oracle: dict) -> None:
    """Those of the oracle are wrong on purpose."""
    file = oracle["model"].folder.nets["G51"]
    weights = torch.load(file, weights_only=True)
    bare = {key: value for key, value in weights.items() if ".running_" not in key and "num_batches" not in key}
    assert len(bare) < len(weights)
    with torch.inference_mode():
        both = [UnetGenerator.from_state_dict(w)(oracle["window"].clone()) for w in (weights, bare)]
    assert torch.equal(*both)


def test_a_translator_can_be_renamed(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", "G1 GS0 GS1", modalities_no=1)
    model = open_deepliif(tmp_path / "m")
    assert replace(model, name="Mine").describe()["name"] == "Mine"
