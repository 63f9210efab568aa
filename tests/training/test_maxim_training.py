"""A MAXIM training: it learns, goes on after a stop as if there had been none, and leaves a model that says what it is."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mxbridge.errors import ModelError, OutputError, UsageError
from mxbridge.image import Box
from mxbridge.metrics.agreement import Range
from mxbridge.metrics.baselines import Baselines
from mxbridge.metrics.spread import SpreadRecord
from mxbridge.models.card import read_card
from mxbridge.models.catalogue import open_model, resolve
from mxbridge.models.familiarity import Familiarity
from mxbridge.models.linear_start import corrected, network_input
from mxbridge.progress import Progress
from mxbridge.stream.engine import bf16_works_on_cpu
from mxbridge.stream.views import SIX_VIEWS
from mxbridge.training import loop
from mxbridge.training.maxim import fields as maxim_fields
from mxbridge.training.maxim import findings
from mxbridge.training.maxim.adversary import opponent_of, prediction
from mxbridge.training.maxim.fields import ErrorSums, judge
from mxbridge.training.maxim.images import gather_images
from mxbridge.training.maxim.pictures import OURS
from mxbridge.training.maxim.recipe import HoldBack, first_network, prepare, train_maxim, training_folder
from mxbridge.training.maxim.split import Region
from mxbridge.workspaces.memory import MemoryWorkspace
from tests.toy_maxim_training import MARKERS, images, pixels, tiny

REGION = HoldBack(region=0.3)


class Stop(Exception):
    pass


class StopAt(Progress):
    def __init__(self, step: int):
        self.at = step

    def step(self, name: str, done: int, total: int) -> None:
        if done == self.at:
            raise Stop


def trained(out: Path, given=None, shape=(64, 80), **options):
    return train_maxim(images(shape=shape), given or tiny(), out, device="cpu", **({"held_back": REGION} | options))


def rows_of(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("maxim") / "any.safetensors"
    return out, trained(out, licence="ours")


def test_the_card_says_everything(finished):
    out, card = finished
    assert read_card(out) == card and card.system == "maxim" and card.name == "MAXIM"
    assert card.channels == card.outputs == MARKERS and card.any_marker and card.um_per_px == 0.5
    assert set(card.scaling) == set(MARKERS) and set(card.linear_start["names"]) == set(MARKERS)
    assert (card.dtype, card.licence, card.seed) == ("uint16", "ours", 1)
    assert "by region: the lower 0.3" in card.split and "3 images (slide0" in card.training_data
    assert card.metrics["KI67"]["mae"] <= card.metrics["KI67"]["ridge_mae"] + 0.02
    assert card.metrics["validation_mae"] > 0 and "validation_ridge_3x3_pearson" in card.metrics
    inside = json.loads(_embedded(out))
    assert inside["split"] == card.split and inside["sha256"] is None


def _embedded(out: Path) -> str:
    from safetensors import safe_open

    with safe_open(out, framework="np") as opened:
        return opened.metadata()["card"]


def test_what_validation_saw_can_be_read(finished):
    _, card = finished
    seen = card.validation
    assert seen["kind"] == "region" and set(seen["agreement"]) == set(MARKERS)
    for marker in MARKERS:
        Range.from_record(seen["agreement"][marker])
        record = SpreadRecord.from_record(seen["spread"][marker])
        assert record is not None and record.source == "six views"
    assert Familiarity.from_record(seen["channel_means"]) is not None
    assert set(seen["input_ranges"]) == set(MARKERS)


def test_the_folder_beside_it(finished):
    out, _ = finished
    folder = training_folder(out)
    assert {p.name for p in folder.iterdir()} == OURS
    for picture in ("curves.png", "patches.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    log = rows_of(folder / "log.csv")
    assert [row["step"] for row in log] == ["2", "4"] and {"loss", "score", "mae KI67"} <= set(log[0])
    rows = rows_of(folder / "validation.csv")
    assert [r["marker"] for r in rows] == list(MARKERS) and rows[0]["ridge_3x3_mae"]
    assert Baselines.load(folder / "baselines.npz").targets == MARKERS
    assert len(rows_of(folder / "split.csv")) == 3
    assert {p.name for p in out.parent.iterdir()} == {"any.safetensors", "any.json", "any.training"}


def test_the_model_opens(finished):
    out, _ = finished
    model = open_model(resolve(str(out)))
    assert (model.inputs, model.outputs, model.any_marker) == (MARKERS, MARKERS, True)


def test_doing_it_again_changes_nothing_until_asked(finished, monkeypatch):
    out, card = finished
    before = {p: p.read_bytes() for p in out.parent.rglob("*") if p.is_file()}
    monkeypatch.setattr(loop, "_Work", None)
    assert trained(out, licence="ours") == card
    assert {p: p.read_bytes() for p in out.parent.rglob("*") if p.is_file()} == before
    with pytest.raises(TypeError):
        trained(out, tiny(seed=2))
    with pytest.raises(TypeError):
        trained(out, restart=True)


def test_a_stop_changes_nothing(tmp_path):
    given, large = tiny(adversarial="coded", side=48, batch=1), (96, 112)
    kept = tmp_path / "kept"
    whole = trained(tmp_path / "whole.safetensors", given, large)
    with pytest.raises(Stop):
        trained(tmp_path / "halved.safetensors", given, large, checkpoint=kept, progress=StopAt(3))
    assert kept.exists()
    again = trained(tmp_path / "halved.safetensors", given, large, checkpoint=kept)
    assert replace(again, sha256=whole.sha256) == whole and not kept.exists()
    one, two = (load_file(tmp_path / f"{n}.safetensors") for n in ("whole", "halved"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    for name in OURS - {"baselines.npz"}:  # a zip holds the time
        assert (tmp_path / "whole.training" / name).read_bytes() == (tmp_path / "halved.training" / name).read_bytes()
    rivals = [row["rival"] for row in rows_of(tmp_path / "whole.training" / "log.csv")]
    assert len(set(rivals)) == 2, "the discriminator learns"


def test_checkpoints_between_validations(tmp_path):
    """They are written by the clock, and go on to the bit."""
    prepared = prepare(images(), tiny(average=0.9), REGION)
    plan = prepared.settings.schedule(1000)

    def run(checkpoint=None, stop=0):
        network = first_network(prepared)

        def tell(moment):
            if moment.step == stop:
                raise Stop

        done = loop.train(
            network,
            prepared.patches(),
            lambda model, drawn: loop_loss(model, drawn),
            lambda model: judge(model, prepared.fields(10**6), 0.5),
            plan,
            device="cpu",
            checkpoint=checkpoint,
            checkpoint_seconds=0,
            progress=tell,
        )
        return network.state_dict(), done

    expected, course = run()
    with pytest.raises(Stop):
        run(tmp_path / "kept", stop=3)
    assert torch.load(tmp_path / "kept", weights_only=True)["state"].startswith('{"steps": 3')
    found, again = run(tmp_path / "kept")
    assert again.history == course.history and all(torch.equal(expected[k], found[k]) for k in expected)


def loop_loss(model, drawn):
    return (prediction(model, drawn) - drawn[1]).square().mean()


def test_it_learns_what_a_regression_cannot(tmp_path):
    """A marker that is the square of another: the linear start is off, the network mends it."""
    stacks = {}
    for k in range(3):
        stack = pixels(k).astype(float)
        stack[3] = 200 * (2 * (stack[0] / 200 - 0.5)) ** 2
        stacks[f"s{k}"] = (stack.astype("uint16"), MARKERS, 0.5)
    given = replace(tiny(markers=("KI67",), width=4, batch=4, steps=60, validate_every=30), learning_rate=1e-2)
    card = train_maxim(gather_images([MemoryWorkspace(stacks)]), given, tmp_path / "m.safetensors", device="cpu")
    assert card.metrics["KI67"]["mae"] < 0.7 * card.metrics["KI67"]["ridge_3x3_mae"]
    assert card.split.startswith("by case (every image taken for one): ") and card.validation["kind"] == "cases"


@pytest.mark.parametrize(("kind", "side"), [("coded", 48), ("paper", 64)])
@pytest.mark.parametrize("target", [{"any_marker": True}, {"markers": ("KI67",)}])
def test_a_discriminator_learns_and_changes_the_network(kind, side, target):
    given = tiny(adversarial=kind, side=side, batch=2, **target)
    prepared = prepare(images(shape=(128, 128)), given, REGION)
    network = first_network(prepared)
    opponent = opponent_of(given, network)
    assert opponent is not None
    drawn = prepared.patches()(0)
    made = prediction(network, drawn)
    before = [p.detach().clone() for p in opponent.network.parameters()]
    opponent.own_loss(opponent.network, drawn, made.detach()).backward()
    grads = [p.grad for p in opponent.network.parameters()]
    assert before and all(g is not None and torch.isfinite(g).all() for g in grads)
    plain = torch.autograd.grad(
        given.beta * (drawn[2] * (made - drawn[1]).abs()).mean(), network.conv.weight, retain_graph=True
    )
    against = torch.autograd.grad(opponent.loss(opponent.network, drawn, made), network.conv.weight)
    assert not torch.allclose(plain[0], against[0])


def test_the_average_is_what_is_kept():
    prepared = prepare(images(), tiny(average=0.99), REGION)
    one, two = first_network(prepared), first_network(prepared)
    seen = []

    def validate(model):
        seen.append(model.conv.weight.detach().clone())
        return float(len(seen))

    common = (prepared.patches(), loop_loss, validate)
    loop.train(one, *common, prepared.settings.schedule(1000), device="cpu")
    plain = tiny(average=0.0).schedule(1000)
    loop.train(two, *common, plain, device="cpu")
    assert torch.equal(one.conv.weight, seen[1]) and torch.equal(two.conv.weight, seen[3])
    assert float(seen[1].abs().mean()) < float(seen[3].abs().mean()), "an average lags behind"


def test_a_loss_that_is_no_number_stops_it():
    prepared = prepare(images(), tiny(), REGION)
    plan = prepared.settings.schedule(1000)
    with pytest.raises(ModelError, match="step 1 is no number"):
        loop.train(
            first_network(prepared),
            prepared.patches(),
            lambda m, d: loop_loss(m, d) * float("nan"),
            lambda m: 0.0,
            plan,
            device="cpu",
        )


def test_precisions():
    cpu = torch.device("cpu")
    assert loop.training_precision("auto", cpu) == loop.training_precision("fp32", cpu) == torch.float32
    with pytest.raises(UsageError, match="fp16"):
        loop.training_precision("fp16", cpu)


def test_errors_agree_with_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 40, 50), dtype=np.float32)
    b[0, 0, 0] = np.nan
    sums = ErrorSums(1)
    sums.add(a[:, :17], b[:, :17])
    sums.add(a[:, 17:], b[:, 17:])
    kept = np.isfinite(b)
    assert sums.mae[0] == pytest.approx(np.abs(a - b)[kept].mean(), rel=1e-6)
    assert sums.mse[0] == pytest.approx(((a - b) ** 2)[kept].mean(), rel=1e-6)
    assert sums.pearson[0] == pytest.approx(np.corrcoef(a[kept], b[kept])[0, 1], rel=1e-6)


def test_held_back_fields_are_predicted_as_the_whole_image():
    """Tiles and their halos give what one pass over the image gives, and a limit takes fewer tiles."""
    prepared = prepare(images(shape=(210, 230)), tiny(), REGION)
    network = first_network(prepared).eval()
    torch.nn.init.normal_(network.conv.weight)
    fields = prepared.fields(10**9)
    whole = maxim_fields.Fields(fields.store, (Region(1, Box(0, 0, 210, 230)),), fields.panel, fields.start, 1, 10**9)
    (every,) = whole.predict(network)
    with torch.inference_mode():
        planes = torch.nn.functional.pad(torch.from_numpy(every.planes)[None], (0, 10, 0, 14), mode="reflect")[0]
        begun = fields.start.estimate(planes, ["CD8"])
        inputs = network_input(planes, [2], begun, any_marker=True)
        plain = corrected(network(inputs[None])[0, 2], begun[0]).clamp(0, 1)[:210, :230]
    assert np.abs(every.unit[0, 2] - plain.numpy()).max() < 1e-5
    cores = list(maxim_fields.cores(prepared.split.validation[1].box, 64))
    assert len(cores) > 4
    tiles = []
    for core in cores:
        region = maxim_fields.Fields(fields.store, (Region(1, core),), fields.panel, fields.start, 1, 10**9)
        tiles += list(region.predict(network))
    for core, tile in zip(cores, tiles, strict=True):
        expected = every.unit[:, :, core.y0 : core.y1, core.x0 : core.x1]
        assert np.abs(tile.unit - expected).max() < 1e-5
    limited = maxim_fields.Fields(fields.store, fields.regions, fields.panel, fields.start, 1, 1)
    assert len(limited.tiles()) == 1


def test_six_views_are_made_of_a_part_and_the_card_says_so(monkeypatch):
    """They cost five times the rest: of large held-back regions a seeded choice of the judged tiles is enough."""
    monkeypatch.setattr(maxim_fields, "CORE", 32)
    monkeypatch.setattr(maxim_fields.cores, "__defaults__", (32,))
    prepared = prepare(images(shape=(210, 230)), tiny(), REGION)
    network, fields = first_network(prepared).eval(), prepared.fields(10**9)
    every = [len(t.unit) for t in fields.predict(network, SIX_VIEWS, most_in_views=4 * 3000)]
    assert set(every) == {1, 6} and 3000 <= every.count(6) * 32 * 32 < 2 * 3000 + 32 * 32
    monkeypatch.setattr(findings, "JUDGED_IN_VIEWS", 4 * 3000)
    baselines = findings.fit_baselines(prepared.store, prepared.split.training, prepared.panel, prepared.scalings, 1)
    said = findings.find_out(network, fields, baselines, prepared.split, ["a", "b", "c"]).validation
    held_back = sum(r.pixels for r in prepared.split.validation)
    turned = sum(said["spread"]["CD3"]["pixels"])
    assert said["seen_on"]["errors and agreement"] == f"{held_back} of {held_back} held-back pixels"
    assert said["seen_on"]["spread"] == f"{turned} of {held_back} held-back pixels" and 0 < turned < held_back
    assert said["seen_on"]["channel means and input ranges"] == "training and held-back regions"


def test_channel_means_come_from_many_small_blocks(monkeypatch):
    """Of a slide that is too large to be read whole: few large blocks would tell glass from tissue, not slide from slide."""
    prepared = prepare(images(1, shape=(512, 512)), tiny(), REGION)
    regions = [*prepared.split.training, *prepared.split.validation]
    monkeypatch.setattr(findings, "MOST_PIXELS", 512 * 256)
    large, small = (list(findings._blocks(prepared.store, regions, 1, side)) for side in (512, 64))
    assert len(large) < 3 and len(small) >= 32
    assert sum(b.shape[0] * b.shape[1] for _, b in small) < 512 * 256 + 64 * 64
    read = []
    monkeypatch.setattr(findings, "_blocks", lambda *given: read.append(given[3]) or iter(small))
    assert set(findings._channels(prepared.store, prepared.split, prepared.panel, 1)["input_ranges"]) == set(MARKERS)
    assert read == [findings.SMALL_BLOCK]


@pytest.mark.parametrize("what", ["weights", "card", "folder", "file"])
def test_nobody_elses_files_are_replaced(tmp_path, what):
    target = {"weights": "a.safetensors", "card": "a.json", "folder": "a.training/thesis.docx", "file": "a.training"}[
        what
    ]
    theirs = tmp_path / target
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("my thesis")
    with pytest.raises(OutputError):
        trained(tmp_path / "a.safetensors")
    assert theirs.read_text() == "my thesis" and len(list(tmp_path.rglob("*"))) <= 2


def test_a_model_of_another_name_is_not_replaced(finished):
    out, _ = finished
    with pytest.raises(OutputError, match="is there already"):
        trained(out, name="Other")


def test_a_model_of_other_markers_is_not_replaced(finished):
    out, _ = finished
    before = out.read_bytes()
    with pytest.raises(OutputError, match="is a model of DAPI, CD3, CD8, KI67"):
        trained(out, tiny(markers=("KI67",)), restart=True)
    assert out.read_bytes() == before


@pytest.mark.slow
def test_half_precision_where_the_cpu_can():
    if not bf16_works_on_cpu():
        pytest.skip("this CPU ends programs that use bf16 convolutions")
    prepared = prepare(images(), tiny(), REGION)
    done = loop.train(
        first_network(prepared),
        prepared.patches(),
        loop_loss,
        lambda model: judge(model, prepared.fields(10**6), 0.5),
        prepared.settings.schedule(1000),
        device="cpu",
        precision="bf16",
    )
    assert done.steps == 4 and 0 < done.history[-1]["mae"] < 0.2
