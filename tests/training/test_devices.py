"""Many processes: two with half a batch each learn what one with the whole batch learns, and either goes on from the other."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spf import config, library
from spf.backbones import checkpoints
from spf.errors import InvalidInput
from spf.training import checkpoint, preview
from spf.training.devices import refuse_lonely_process
from spf.training.draws import Draws, own_rows
from spf.training.run import Run
from spf.training.run_folder import RunFolder

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TOLERANCE = 1e-3  # of the length of the whole update: sums of floats in another order, after two steps of AdamW


def test_pieces_of_a_batch_draw_what_the_whole_draws():
    def drawn(part, parts, count):
        draws = Draws.of_step(3, 7, part, parts)
        return [own_rows(lambda rows: torch.randint(1000, (rows,), generator=draws), count, draws),
                own_rows(lambda rows: torch.randn(rows, 2, 3, generator=draws), count, draws)]

    whole, pieces = drawn(0, 1, 6), [drawn(part, 3, 2) for part in range(3)]
    for index in range(2):
        assert torch.equal(torch.cat([piece[index] for piece in pieces]), whole[index])
    plain = torch.Generator().manual_seed(5)
    assert own_rows(lambda rows: torch.randn(rows, generator=plain), 4, plain).shape == (4,)


@pytest.mark.parametrize("environment, lonely", [
    ({}, False),
    ({"MASTER_ADDR": "127.0.0.1"}, False),
    ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}, False),
    ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}, False),
    ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "True"}, True)])
def test_one_process_where_several_were_asked_for_is_refused(environment, lonely):
    if not lonely:
        return refuse_lonely_process(environment)
    with pytest.raises(InvalidInput, match="torchrun --nproc_per_node"):
        refuse_lonely_process(environment)


def test_accelerate_leaves_just_what_the_refusal_looks_for():
    """The environment that `accelerate launch --cpu --num_processes 2` gives to the one process that it starts."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    for count in (1, 2):
        arguments = launch_command_parser().parse_args(
            ["--cpu", "--num_processes", str(count), "--num_machines", "1", "--num_cpu_threads_per_process", "1",
             "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "spf", "train"])
        _, environment = prepare_simple_launcher_cmd_env(arguments)
        environment = {name: value for name, value in environment.items() if name not in os.environ}
        if count == 1:
            refuse_lonely_process(environment)
        else:
            with pytest.raises(InvalidInput, match="torchrun"):
                refuse_lonely_process(environment)


def prepared(spf_home, picture_folder, batch: int) -> RunFolder:
    settings = config.train_config("tiny", {
        "data": str(picture_folder), "name": "hat", "checkpoint_every": 1, "checkpoints_kept": 9, "caption_dropout": 0.3,
        "stage1.max_train_steps": 2, "stage2.max_train_steps": 2, "stage1.train_batch_size": batch,
        "stage2.train_batch_size": batch, "method.use_enhanced_loss": False})  # its mean is over the samples it can use
    return RunFolder.create(spf_home / "runs", settings)


def on_two_processes(folder: RunFolder, until: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1",
         "--master_port", str(port), str(Path(__file__).with_name("launched.py")), str(config.CONFIGS), str(folder.path),
         str(until)], env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=600)
    assert "exitcode  : 9" in done.stderr, done.stderr[-2000:]


def weights(folder: RunFolder, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder.path / f"checkpoint-{step}" / "weights.safetensors")


def test_two_processes_equal_one_with_the_doubled_batch(tiny, picture_folder, spf_home, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(preview, "PREVIEW_STEPS", 1)
    two, one = prepared(spf_home, picture_folder, 1), prepared(spf_home, picture_folder, 2)
    on_two_processes(two, until=4)
    monkeypatch.setattr(checkpoint, "remove_all", lambda run: None)
    card = Run(one.config(), one, torch.device("cpu")).execute().card

    before = checkpoints.load_backbone(tiny).denoiser.state_dict()
    for step in (2, 3):
        ours, theirs = weights(two, step), weights(one, step)
        assert ours.keys() == theirs.keys()
        update = torch.cat([(theirs[name] - before[name]).flatten() for name in theirs])
        apart = torch.cat([(theirs[name] - ours[name]).flatten() for name in theirs])
        assert update.norm() > 0 and apart.norm() < TOLERANCE * update.norm()
    for ours, theirs in zip(two.metrics(), one.metrics(), strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    manifest = json.loads((two.path / "checkpoint-3" / "manifest.json").read_text())["position"]
    assert (manifest["processes"], manifest["global_batch"]) == (2, 2)
    assert (card.summary["stage1_global_batch"], card.summary["stage1_batch_per_device"], card.summary["processes"]) == (2, 2, 1)

    resumed = Run(two.config(), two, torch.device("cpu")).execute()
    assert resumed.card.summary["stage2_global_batch"] == 2 and two.status().state == "completed"
    assert two.metrics()[-1]["loss"] == pytest.approx(one.metrics()[-1]["loss"], rel=1e-3)
