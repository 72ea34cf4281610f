"""The benchmark at true size, on models of a few thousand weights: every row takes its step, and counting agrees with doing."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "true_size.py"
both_families = pytest.mark.parametrize("family", ["unet", "mmdit"])


@pytest.fixture(scope="module")
def bench():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("true_size", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules["true_size"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path[:] = before
    yield module
    del sys.modules["true_size"]


@both_families
@pytest.mark.parametrize("name, bf16", [("plain", False), ("stage 1", True), ("stage 2", True), ("stage 2 lean", False)])
def test_a_step_is_timed_and_its_memory_measured(bench, tiny, family, name, bf16):
    measured = bench.measure(tiny, bench.ROWS[name], 2, 64, "cpu", bf16, 2)
    assert len(measured["seconds"]) == len(measured["processor_seconds"]) == 2 and min(measured["seconds"]) > 0
    assert measured["peak_bytes"] >= 0


@both_families
@pytest.mark.parametrize("name, trains, shares", [
    ("plain", "full", True), ("stage 1", "full", True), ("stage 1 cross", "cross", True), ("stage 2", "cross", False),
    ("stage 2 shared", "cross", True)])
def test_a_row_trains_what_it_says(bench, tiny, family, name, trains, shares):
    row = bench.ROWS[name]
    networks, clip = bench.empty_networks(tiny, row)
    for network in networks.values():
        bench.filled(network, torch.device("cpu"))
    reference, response = bench.paths_of(tiny, row, networks)
    losses, trained = bench.losses_of(row, networks, clip, (reference, response), 1, 64)
    loss = losses()
    loss.backward()
    assert torch.isfinite(loss) and sum(parameter.grad is not None for parameter in trained) > len(trained) // 2
    assert len(trained) == len(list(response.trainable_parameters(trains)))
    both = {id(value) for value in reference.denoiser.parameters()} & {id(value) for value in response.denoiser.parameters()}
    assert bool(both) == shares


@both_families
def test_what_is_counted_is_what_a_real_step_does(bench, tiny, family):
    row = bench.ROWS["stage 2 shared"]
    networks, clip = bench.empty_networks(tiny, row)
    for network in networks.values():
        bench.filled(network, torch.device("cpu"))
    losses, _ = bench.losses_of(row, networks, clip, bench.paths_of(tiny, row, networks), 2, 64)
    with bench.operations() as real:
        losses().backward()
    counted = {name: bench.count(tiny, bench.ROWS[name], 2, 64) for name in ("plain", "stage 2", "stage 2 shared")}
    assert counted["stage 2 shared"]["giga_operations"] == pytest.approx(real.get_total_flops() / 1e9, abs=0.05)
    assert counted["stage 2"]["weights_gb"] >= counted["stage 2 shared"]["weights_gb"]
    assert counted["plain"]["trained_million"] > counted["stage 2"]["trained_million"]


def test_the_command_interleaves_its_rows_and_reports_them_beside_the_plain_step(tiny, spf_home, tmp_path):
    (spf_home / "models").mkdir(parents=True)
    mine = tiny.model_copy(update={"name": "mine"}).model_dump(mode="json", exclude_defaults=True)
    (spf_home / "models" / "mine.yaml").write_text(yaml.safe_dump(mine))
    out = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), "--model", "mine", "--rows", "plain", "stage 2 shared", "--rounds", "1",
         "--steps", "1", "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert (report["model"], report["side"], report["batch"], report["dtype"]) == ("mine", 64, 2, "fp32")
    plain, ours = report["rows"]["plain"], report["rows"]["stage 2 shared"]
    assert plain["seconds_over_plain"] == plain["processor_seconds_over_plain"] == [1.0, 1.0, 1.0]
    assert ours["seconds_over_plain"][1] == pytest.approx(ours["seconds"]["median"] / plain["seconds"]["median"], rel=0.01)
    assert ours["peak_gb"] > 0 and ours["peak_over_plain"] > 0


@pytest.mark.slow
def test_one_second_stage_step_of_stable_diffusion_15_takes_less_than_20_gb(tmp_path):
    """860 M random weights, 256 px, batch 1, full decoder, an original with weights of its own; minutes, and 12 GB."""
    out = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), "--model", "sd15", "--side", "256", "--batch", "1", "--rounds", "1",
         "--steps", "1", "--rows", "stage 2", "--out", str(out)], capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 5 < json.loads(out.read_text())["rows"]["stage 2"]["peak_gb"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "stage 1", "stage 2", "stage 2 lean"])
def test_stable_diffusion_35_medium_takes_its_steps_in_shape(bench, name):
    """On tensors without memory: every shape of forward and backward fits, at the size that was published."""
    counted = bench.count(bench.preset_of("sd35-medium"), bench.ROWS[name], 1, 512)
    assert counted["giga_operations"] > 5000 and counted["peak_gb"] > 5
