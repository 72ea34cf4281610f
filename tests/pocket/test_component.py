"""The pre-training loop: interrupted and resumed is the same as never interrupted, bit for bit."""

import json
import math
import signal

import pytest
import torch
from torch import nn

from spf.config import ComponentConfig
from spf.errors import Cancelled, TrainingError
from spf.pocket import component as module
from spf.pocket.component import Component, fit, learning_rate, progress_of

CPU = torch.device("cpu")
CONFIG = ComponentConfig(architecture={}, samples=80, batch_size=4, learning_rate=0.05, warmup_samples=12)  # 20 steps


class Clock:
    """time.monotonic() that goes on by one second per look: three looks per step, two before the first."""

    def __init__(self):
        self.now = 0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def toy(start: int = 0, crash_at: int | None = None, config: ComponentConfig = CONFIG) -> Component:
    """A network with a buffer that counts, and a loss whose data depend on the generator alone."""
    torch.manual_seed(start)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def loss(step, generator):
        if step == crash_at:
            raise RuntimeError("power cut")
        x = torch.randn(config.batch_size, 3, generator=generator)
        value = (network(x) - x.sum(1, keepdim=True)).square().mean()
        return value, {"x": x.mean()}

    return Component("toy", network, loss, config)


def trained(made: Component, folder, deadline: float = math.inf, seed: int = 1) -> tuple[bool, dict]:
    done = fit(made, folder, seed, 0.9, deadline, CPU)
    return done, {name: value.clone() for name, value in made.network.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def logged(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_interrupted_and_resumed_equals_straight(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(module, "LOG_STEPS", 5)
    done, straight = trained(toy(), tmp_path / "straight")
    assert done and progress_of(tmp_path / "straight", "toy").step == 20
    done, start, steps = False, 0, []
    while not done:  # later calls begin with other random weights, which the checkpoint must replace
        done, resumed = trained(toy(start), tmp_path / "parts", clock.now + 12)
        steps.append(progress_of(tmp_path / "parts", "toy").step)
        start += 1
    assert len(steps) > 3 and steps == sorted(set(steps)) and steps[-1] == 20
    assert same(resumed, straight)
    lines, others = logged(tmp_path / "parts"), logged(tmp_path / "straight")
    assert [line["step"] for line in lines] == [0, 5, 10, 15] and lines == others


def test_a_crash_costs_no_more_than_what_was_done_since_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 10)
    _, straight = trained(toy(), tmp_path / "straight")
    with pytest.raises(RuntimeError, match="power cut"):
        trained(toy(crash_at=13), tmp_path / "crashed")
    assert 8 < progress_of(tmp_path / "crashed", "toy").step <= 13
    done, resumed = trained(toy(5), tmp_path / "crashed")
    assert done and same(resumed, straight)


def _ctrl_c():
    raise KeyboardInterrupt  # not its signal: a shell's background process is started to ignore that


@pytest.mark.parametrize("interrupt", [_ctrl_c, lambda: signal.raise_signal(signal.SIGTERM)], ids=["ctrl-c", "terminated"])
def test_interrupted_by_hand_it_says_where_it_goes_on(tmp_path, monkeypatch, interrupt):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 10)
    made = toy()
    plain = made.loss
    made.loss = lambda step, generator: plain(step, generator) if step < 13 else pytest.fail("later") if step > 13 else stop()

    def stop():
        interrupt()
        pytest.fail("nothing interrupted it")

    with pytest.raises(Cancelled, match="toy: interrupted at step 13; the same command goes on from step (9|1[0-2])"):
        trained(made, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    done, resumed = trained(toy(5), tmp_path)
    assert done and same(resumed, trained(toy(), tmp_path / "straight")[1])


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, clock, monkeypatch, error):
    trained(toy(), tmp_path, clock.now + 12)
    before, save = (tmp_path / "toy.pt").read_bytes(), torch.save

    def fail(state, path):
        save(state, path)
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(TrainingError, match=r"toy.pt cannot be written \(.*free some space"):
        trained(toy(), tmp_path)
    assert (tmp_path / "toy.pt").read_bytes() == before and not list(tmp_path.glob("*.partial"))


def test_averaged_weights_that_are_no_numbers_are_not_saved(tmp_path, clock):
    trained(toy(), tmp_path, clock.now + 12)
    before = (tmp_path / "toy.pt").read_bytes()
    made = toy()
    made.loss = lambda step, generator: (made.network[0].weight.sum() * float("nan"), {})
    with pytest.raises(TrainingError, match="'0.weight' is not finite"):
        trained(made, tmp_path)
    assert (tmp_path / "toy.pt").read_bytes() == before


def test_a_finished_component_is_not_trained_again(tmp_path):
    _, first = trained(toy(), tmp_path)
    done, again = trained(toy(3, crash_at=20), tmp_path)
    assert done and same(first, again)


def test_the_seed_decides(tmp_path):
    results = [trained(toy(), tmp_path / name, seed=seed)[1] for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 2**64))]
    assert same(results[0], results[1]) and not same(results[0], results[2]) and not same(results[0], results[3])


def test_another_configuration_is_refused_by_name(tmp_path, clock):
    trained(toy(), tmp_path, clock.now + 12)
    before = (tmp_path / "toy.pt").read_bytes()
    with pytest.raises(TrainingError, match="toy.pt.*another configuration"):
        trained(toy(config=CONFIG.model_copy(update={"learning_rate": 0.1})), tmp_path)
    assert (tmp_path / "toy.pt").read_bytes() == before


def test_the_network_ends_with_averaged_weights_in_evaluation_mode(tmp_path):
    made = toy()
    _, averaged = trained(made, tmp_path)
    state = torch.load(tmp_path / "toy.pt", weights_only=True)
    assert same(averaged, state["average"]) and not same(averaged, state["network"])
    assert not made.network.training
    assert averaged["1.num_batches_tracked"] == 20, "whole numbers are copied, not averaged"


def test_training_lowers_the_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_STEPS", 1)
    trained(toy(), tmp_path)
    losses = [line["loss"] for line in logged(tmp_path)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5]) and [line["samples"] for line in logged(tmp_path)] == list(range(0, 80, 4))


def test_a_loss_that_is_no_number_stops_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_STEPS", 1)
    made = toy()
    made.loss = lambda step, generator: (made.network[0].weight.sum() * float("nan"), {})
    with pytest.raises(TrainingError, match="toy: the loss is not finite at step 0"):
        trained(made, tmp_path / "run")
    assert not (tmp_path / "run" / "toy.pt").exists()


def test_the_learning_rate_warms_up_and_ends_at_a_hundredth():
    config = CONFIG.model_copy(update={"samples": 4000, "warmup_samples": 400})
    rates = [learning_rate(config, step) for step in range(1000)]
    peak = max(range(1000), key=rates.__getitem__)
    assert rates[0] == pytest.approx(config.learning_rate / 100, rel=1e-3) and 95 <= peak <= 105
    assert rates[peak] == pytest.approx(config.learning_rate, rel=0.05)
    assert rates[-1] == pytest.approx(config.learning_rate / 100, rel=0.01)
    assert all(a < b for a, b in zip(rates[:peak], rates[1:peak + 1], strict=True))
    assert all(a > b for a, b in zip(rates[peak:], rates[peak + 1:], strict=False))


def test_nothing_has_progressed_before_the_start(tmp_path):
    assert (progress_of(tmp_path, "toy").step, progress_of(tmp_path, "toy").seconds) == (0, 0.0)
