"""The numbers of a run: fetched in time, told with their shares, and refused by name."""

import math
import time

import pytest
import torch
from accelerate import Accelerator

from spf.errors import InvalidInput, TrainingError
from spf.training.ledger import LOOK_EVERY, DivergenceGuard, Ledger, shares
from spf.training.reports import reporter, require_reporter


@pytest.fixture
def ledger():
    """ledger(every): a ledger that looks every so many steps, as on an accelerator, and the lines it wrote."""
    def make(every=1, factor=0.0):
        lines = []
        made = Ledger("stage2", 10, lines.append, DivergenceGuard(factor), Accelerator(cpu=True))
        made._every = every
        return made, lines

    return make


def numbers(**terms: float) -> dict[str, torch.Tensor]:
    losses = {f"{name}_loss": torch.tensor(value) for name, value in terms.items()}
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def test_a_line_tells_terms_shares_and_pace(ledger):
    made, lines = ledger()
    made.add(0, numbers(diff=3.0, text=1.0) | {"grad_norm": torch.tensor(2.0)}, 1e-4, True, {"validation_loss": 0.5})
    (line,) = lines
    assert (line["stage"], line["step"], line["lr"], line["validation_loss"]) == ("stage2", 10, 1e-4, 0.5)
    assert (line["loss"], line["diff_loss"], line["diff_share"], line["text_share"]) == (4.0, 3.0, 0.75, 0.25)
    assert line["grad_norm"] == 2.0 and line["seconds_per_step"] >= 0 and line["memory_gb"] > 0


def test_shares_of_nothing_are_left_out():
    assert shares({"loss": 0.0, "diff_loss": 0.0}) == {}


def test_lines_that_are_not_wanted_are_looked_at_all_the_same(ledger):
    made, lines = ledger()
    made.add(0, numbers(diff=1.0), 0.1, False, {})
    assert lines == []
    with pytest.raises(TrainingError, match="step 11"):
        made.add(1, numbers(diff=math.nan), 0.1, False, {})


def test_a_validation_that_is_no_number_is_named(ledger):
    made, lines = ledger()
    with pytest.raises(TrainingError, match="stage2, step 10: validation_preservation is not a finite number"):
        made.add(0, numbers(diff=1.0), 1e-4, True, {"validation_loss": 0.5, "validation_preservation": math.nan})
    assert lines == []


@pytest.mark.parametrize("name", ["diff_loss", "enhanced_loss", "grad_norm", "sfcm_mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("broken", range(6))
def test_what_breaks_on_an_accelerator_is_named_within_three_steps(ledger, name, value, broken):
    """Nothing is fetched in between, so the device is not waited for at every step."""
    made, lines = ledger(every=LOOK_EVERY)
    good = numbers(diff=1.0, enhanced=0.5) | {"grad_norm": torch.tensor(1.0), "sfcm_mean": torch.tensor(0.3)}
    with pytest.raises(TrainingError, match=rf"stage2, step {10 + broken}: .*{name}.* is not a finite number; lower"):
        for step in range(9):
            assert step < broken + LOOK_EVERY
            made.add(step, good | ({name: torch.tensor(value)} if step == broken else {}), 0.1, True, {})
            assert len(lines) == (step + 1) // LOOK_EVERY * LOOK_EVERY
    assert [line["step"] for line in lines] == [10 + step for step in range(broken)]


def test_a_loss_that_runs_away_is_stopped_and_its_greatest_term_named(ledger):
    made, lines = ledger(factor=100.0)
    with pytest.raises(TrainingError, match="stage2, step 32: the loss is .* most of it text_loss; lower the learning rate"):
        for step in range(40):
            made.add(step, numbers(diff=1.0, text=0.1 if step < 20 else 1000.0), 0.1, True, {})
    assert len(lines) == 22


@pytest.mark.parametrize("losses", [
    [1.0] * 50, [1.0, 300.0] * 25,
    [float(i % 7 + 1) for i in range(50)], [1e6] * 5 + [1.0] * 45, [1.0] * 20 + [300.0, 300.0] + [1.0] * 9])
def test_noise_peaks_and_a_rough_beginning_are_no_divergence(losses):
    guard = DivergenceGuard(100.0)
    assert not any(guard.diverges(loss) for loss in losses)


def test_a_factor_of_0_lets_everything_go_on():
    guard = DivergenceGuard(0.0)
    assert not any(guard.diverges(10.0**step) for step in range(30))


def test_reporting_without_the_package_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="report_to: .*pip install tensorboard"):
        require_reporter("tensorboard")
    require_reporter("none")


def test_reporting_to_nobody_writes_nothing(tmp_path):
    reporter("none", tmp_path)({"stage": "stage1", "step": 0, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    report = reporter("tensorboard", tmp_path)
    for step in (0, 5, 9):
        report({"stage": "stage1", "step": step, "loss": 1.0 + step, "lr": 0.5})
    time.sleep(1.1)  # the files are told apart by seconds
    reporter("tensorboard", tmp_path, first_step=5)({"stage": "stage1", "step": 5, "loss": 7.0, "lr": 0.5})
    written = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(written.Tags()["scalars"]) == ["stage1/loss", "stage1/lr"]
    assert [(event.step, event.value) for event in written.Scalars("stage1/loss")] == [
        (0, 1.0), (5, 7.0)], "a run that goes on tells its steps once"
