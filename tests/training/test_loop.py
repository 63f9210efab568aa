"""The loop learns, stops early, keeps the best, and goes on after a stop as if there had been none."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from mxbridge.errors import BrokenFile, UsageError
from mxbridge.networks.residual_unet import ResidualUNet
from mxbridge.training.loop import Schedule, choose_device, discard_checkpoint, save_weights, train
from mxbridge.training.losses import pixel_loss


class Stop(Exception):
    pass


def tiny() -> ResidualUNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResidualUNet(2, 2)


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.rand((2, 2, 16, 16), generator=generator)
    return inputs, (inputs[:, :1] > 0.5).float()


def loss(network: nn.Module, drawn: list[torch.Tensor]) -> torch.Tensor:
    inputs, target = drawn
    return pixel_loss(network.logits(inputs), target, torch.ones_like(target))


def validate(network: nn.Module) -> float:
    inputs, target = batches(10_000)
    with torch.no_grad():
        return -float(loss(network, [inputs, target]))


PLAN = Schedule(steps=24, learning_rate=1e-2, warmup=2, validate_every=4, seed=3)


def test_it_learns():
    network = tiny()
    before = validate(network.eval())
    done = train(network, batches, loss, validate, PLAN, device="cpu")
    assert done.steps == 24 and [h["step"] for h in done.history] == [4, 8, 12, 16, 20, 24]
    assert validate(network) == pytest.approx(done.best) and done.best > before + 0.02
    assert not network.training


@pytest.mark.parametrize("at", [5, 8, 13])
def test_resume_is_identical(tmp_path, at):
    whole = tiny()
    expected = train(whole, batches, loss, validate, PLAN, device="cpu")

    def stop(moment):
        if moment.step == at:
            raise Stop

    file = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        train(tiny(), batches, loss, validate, PLAN, device="cpu", checkpoint=file, progress=stop)
    assert torch.load(file, weights_only=True)
    network = tiny()
    done = train(network, batches, loss, validate, PLAN, device="cpu", checkpoint=file)
    assert done.history == expected.history
    for key, value in whole.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


def test_it_stops_when_nothing_gets_better_and_keeps_the_best():
    scores = iter([0.1, 0.9, 0.5, 0.5, 0.5, 0.5])
    kept = {}
    network = tiny()

    def scripted(model):
        score = next(scores)
        kept[score] = model.final_conv.weight.detach().clone()
        return score

    plan = Schedule(steps=24, learning_rate=1e-2, warmup=2, validate_every=4, patience=2, seed=3)
    done = train(network, batches, loss, scripted, plan, device="cpu")
    assert (done.steps, done.best, done.best_step) == (16, 0.9, 8)
    assert torch.equal(network.final_conv.weight, kept[0.9])


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(tiny(), batches, loss, validate, Schedule(steps=2, warmup=1), device="cpu")
    torch.manual_seed(5)
    assert torch.rand(1) == expected


def test_progress_tells_every_step():
    told = []
    train(tiny(), batches, loss, validate, Schedule(steps=5, validate_every=2), device="cpu", progress=told.append)
    assert [m.step for m in told] == [1, 2, 3, 4, 5]
    assert [m.score is not None for m in told] == [False, True, False, True, True]


def test_rate_warms_up_and_falls():
    rates = [PLAN.rate(s) for s in range(24)]
    assert rates[0] < rates[1] and rates[2] == pytest.approx(1e-2) and rates[-1] < 1e-3
    assert all(a >= b for a, b in pairwise(rates[2:]))


def test_checkpoint_of_another_training(tmp_path):
    file = tmp_path / "checkpoint.pt"
    two = Schedule(steps=2, validate_every=2)

    def once(plan=two, **identity):
        train(tiny(), batches, loss, validate, plan, device="cpu", checkpoint=file, identity=identity)

    once(width=2, simulator="a")
    once(simulator="a", width=2)
    before = file.read_bytes()
    for changed, plan, identity in (
        ("schedule", Schedule(steps=3), {"width": 2, "simulator": "a"}),
        ("schedule", Schedule(steps=2, validate_every=2, seed=1), {"width": 2, "simulator": "a"}),
        ("width", two, {"width": 3, "simulator": "a"}),
        ("simulator", two, {"width": 2, "simulator": "b"}),
        ("batch", two, {"width": 2, "simulator": "a", "batch": 16}),
    ):
        with pytest.raises(UsageError, match=f"with another {changed}\\."):
            once(plan, **identity)
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"notes of mine", b"PK\x03\x04", None], ids=["empty", "text", "zip", "torn"])
def test_what_is_no_checkpoint_is_left_alone(tmp_path, content):
    file = tmp_path / "checkpoint.pt"
    plan = Schedule(steps=2, validate_every=2)
    if content is None:
        train(tiny(), batches, loss, validate, plan, device="cpu", checkpoint=file)
        content = file.read_bytes()[:1000]
    file.write_bytes(content)
    with pytest.raises(BrokenFile, match="no checkpoint"):
        train(tiny(), batches, loss, validate, plan, device="cpu", checkpoint=file)
    with pytest.raises(BrokenFile, match="no checkpoint"):
        discard_checkpoint(file)
    assert file.read_bytes() == content


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    torch.save({"identity": Bomb()}, tmp_path / "checkpoint.pt")
    with pytest.raises(BrokenFile):
        discard_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_can_be_discarded(tmp_path):
    file = tmp_path / "checkpoint.pt"
    train(tiny(), batches, loss, validate, Schedule(steps=1), device="cpu", checkpoint=file)
    discard_checkpoint(file)
    assert not file.exists()
    discard_checkpoint(file)


def test_unknown_device():
    with pytest.raises(UsageError, match="no device"):
        choose_device("cuda:99" if not torch.cuda.is_available() else "nonsense")


def test_weights_come_back_as_saved(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    network = tiny()
    digest = save_weights(network, tmp_path / "w.safetensors", '{"a": 1}')
    assert len(digest) == 64
    again = ResidualUNet.from_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(again.final_conv.weight, network.final_conv.weight)
    with safe_open(tmp_path / "w.safetensors", framework="pt") as opened:
        assert opened.metadata()["card"] == '{"a": 1}'
