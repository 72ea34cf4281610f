"""Breaks training on purpose and counts what is lost: `python benchmarks/resilience.py --out resilience.json`.

  saving     kill -9 at random moments while checkpoints are written: the newest one loads, and none that was reported is lost
  resume     20 steps + kill -9 + 20 steps of the pocket model against 40 straight steps: bit for bit, for every seed
  disk       a disk that fills up while a run is written: a named error, the old checkpoint loads, it goes on with space
  cancel     cancel at random moments of a real run: seconds until the run says so
  starts     the same start, many times at once: one job
  server     the process that started a run killed again and again: the same training process goes on, and completes

Everything happens in a temporary folder. `--quick` takes fewer rounds and leaves out what trains a model.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import spf  # noqa: E402, F401
import spf.jobs.store  # noqa: E402
import spf.training.run  # noqa: E402, F401  (once, here: every forked process has it then)
from spf.config import train_config  # noqa: E402

ROUNDS = {"saving": 100, "resume": 5, "disk": 20, "cancel": 50, "starts": 100, "server": 10}
QUICK = {"saving": 5, "disk": 20, "starts": 30}
SMALL = ["--set", "stage1.max_train_steps=20", "--set", "stage2.max_train_steps=20", "--set", "stage1.train_batch_size=1",
         "--set", "stage2.train_batch_size=1", "--set", "checkpoint_every=5", "--set", "sample_every=1000",
         "--set", "validate_every=1000"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *ROUNDS], help="which parts; all by default")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, help="of each part, instead of the usual number")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rounds = QUICK if arguments.quick else ROUNDS
    report, began = {}, time.perf_counter()
    # in this order: a process that has computed must not be forked for 'resume' any more
    for part in (part for part in ROUNDS if part in (arguments.parts or rounds)):
        with tempfile.TemporaryDirectory(prefix="resilience-", ignore_cleanup_errors=True) as folder:
            os.environ["SPF_HOME"] = str(Path(folder) / "home")
            report[part] = globals()[f"measure_{part}"](arguments.rounds or rounds[part], Path(folder))
        print(part, json.dumps(report[part]), flush=True)
    report["seconds"] = round(time.perf_counter() - began)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    raise SystemExit(0 if all(part.get("ok", True) for part in report.values() if isinstance(part, dict)) else 1)


def measure_saving(rounds: int, folder: Path) -> dict:
    """Each round goes on writing where the killed one stopped."""
    from spf.training import checkpoint

    last, kills_inside, lost, half_listed, loads = 0, 0, 0, 0, 0
    rng, told = random.Random(0), folder / "told"
    for _ in range(rounds):
        told.write_text("")
        child = Forked(_save_for_ever, folder, last, told)
        while not told.read_text():
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.5))
        child.kill()
        reported = int(told.read_text().split("\n")[-2])
        kills_inside += bool(list(folder.glob(".checkpoint-*")))
        newest = checkpoint.newest(folder, lambda message: None)
        half_listed += sum(not _loads(path) for path in folder.glob("checkpoint-*"))
        loads += newest is not None
        lost += newest is None or newest.position.step < reported
        last = newest.position.step if newest else last
    return {"kills": rounds, "while_files_were_half_written": kills_inside, "newest_loads": loads, "reported_but_lost": lost,
            "half_but_listed": half_listed, "ok": loads == rounds and not lost and not half_listed}


def _save_for_ever(run: Path, step: int, told: Path) -> None:
    save = _saver(run, 400, keep=2)
    while True:
        step += 1
        save(step)
        with open(told, "a") as file:
            file.write(f"{step}\n")


def _saver(run: Path, width: int, keep: int):
    """save(step): a checkpoint of one layer and its moments, 12 width^2 bytes."""
    import torch

    from spf.backbones.trainables import Learner
    from spf.training import checkpoint
    from spf.training.checkpoint import Position

    network = torch.nn.Linear(width, width)
    learner, optimizer = Learner(dict(network.named_parameters())), torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.ones(1, width)).sum().backward()
    optimizer.step()

    def save(step: int) -> None:
        position = Position(stage="stage1", stage_step=step, step=step, global_batch=1, identity={})
        checkpoint.save(run, position, network.state_dict(), optimizer, learner, keep)

    return save


def _loads(path: Path) -> bool:
    from spf.errors import CheckpointError
    from spf.training import checkpoint

    try:
        return checkpoint.load(path) is not None
    except CheckpointError:
        return False


def measure_resume(seeds: int, folder: Path) -> dict:
    """Compares the customizations' bytes, and every loss of metrics.jsonl."""
    data, equal = _pictures(folder), 0
    for seed in range(seeds):
        Forked(_train, _prepared(data, f"straight-{seed}", seed)).wait()
        run = _prepared(data, f"killed-{seed}", seed)
        child = Forked(_train, run)
        while len(run.metrics()) < 20 + seed:
            time.sleep(0.01)
        child.kill()
        Forked(_train, run).wait()
        straight = _run_of(f"straight-{seed}")
        equal += _weights(f"straight-{seed}") == _weights(f"killed-{seed}") and _losses(straight) == _losses(run)
    return {"seeds": seeds, "steps": "20 + kill + 20 of 40", "bit_for_bit_equal": equal, "ok": equal == seeds}


def _prepared(data: Path, name: str, seed: int):
    from spf.jobs.store import runs_root
    from spf.training.run_folder import RunFolder

    return RunFolder.create(runs_root(), _settings(data, name).model_copy(update={"seed": seed}))


def _train(run) -> None:
    import torch

    from spf.training.run import Run

    Run(run.config(), run, torch.device("cpu")).execute()


def _weights(name: str) -> dict:
    from safetensors import safe_open

    with safe_open(Path(os.environ["SPF_HOME"]) / "customizations" / name / "weights.safetensors", framework="np") as file:
        return {key: file.get_tensor(key).tobytes() for key in file.keys()}


def _losses(run) -> list:
    return [(line["step"], line["loss"]) for line in run.metrics()]


def measure_disk(points: int, folder: Path) -> dict:
    """On a small tmpfs where one can be mounted: at half of the points the space is gone before the checkpoint begins, at
    the others it goes while it is written."""
    from spf.errors import DiskFull
    from spf.training import checkpoint

    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True).returncode:
        return {"points": 0, "not_measured": "no tmpfs can be mounted here"}
    save = _saver(disk, 700, keep=1)  # 5.9 MB
    named, intact, goes_on, check = 0, 0, 0, checkpoint._require_space
    try:
        for point in range(points):
            save(10 * point + 1)
            free = int(6e6 * (point // 2) / max(1, points / 2))
            (disk / "filler").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free)))
            checkpoint._require_space = check if point % 2 else (lambda *args: None)
            try:
                save(10 * point + 2)
            except DiskFull as error:
                named += "free some space" in str(error)
            intact += checkpoint.newest(disk).position.step == 10 * point + 1
            (disk / "filler").unlink()
            save(10 * point + 3)
            goes_on += checkpoint.newest(disk).position.step == 10 * point + 3
    finally:
        checkpoint._require_space = check
        subprocess.run(["umount", str(disk)], capture_output=True)
    return {"points": points, "named_errors": named, "old_checkpoint_loads": intact, "goes_on_with_space": goes_on,
            "ok": named == intact == goes_on == points}


def measure_cancel(rounds: int, folder: Path) -> dict:
    """From the request to the state 'cancelled': at any moment after the start, and, every other time, after the first step."""
    from spf.jobs import store

    data, seconds, stages, rng = _pictures(folder), [], {}, random.Random(0)
    for index in range(rounds):
        run = store.start(_settings(data, f"cancel-{index}"))
        while index % 2 and (status := store.status(run)).step == 0:
            if status.state in ("failed", "interrupted"):
                raise SystemExit(f"cancel: {run.id} {status.state} before it was cancelled: {status.message}")
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 2.0 if index % 2 else 20.0))
        stage = store.status(run).stage or "loading"
        began = time.perf_counter()
        store.cancel(run.id)
        while (state := store.status(run).state) not in ("cancelled", "completed", "failed", "interrupted"):
            time.sleep(0.02)
        seconds.append(round(time.perf_counter() - began, 2))
        stages.setdefault(f"{stage}: {state}", []).append(seconds[-1])
    seconds.sort()
    where = {key: {"cancels": len(found), "longest_seconds": max(found)} for key, found in stages.items()}
    return {"cancels": rounds, "median_seconds": seconds[len(seconds) // 2], "longest_seconds": seconds[-1],
            "within_two_seconds": sum(value <= 2 for value in seconds), "where": where,
            "load": [round(value, 1) for value in os.getloadavg()],
            "ok": all(key.endswith(("cancelled", "completed")) for key in stages)}


def measure_starts(rounds: int, folder: Path) -> dict:
    """From two processes of eight threads each, at the same moment; the worker is a 'sleep', nothing trains."""
    from spf.jobs import queue, store

    sleepers = folder / "sleepers"
    sleepers.mkdir()

    def launch(run) -> subprocess.Popen:
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (sleepers / str(process.pid)).touch()
        return process

    real, store._launch = store._launch, launch
    settings, at = _settings(_pictures(folder, count=4), "hat"), time.time() + 1
    try:
        starters = [Forked(_start_often, settings, at, rounds // 2, folder / f"started-{index}") for index in range(2)]
        for starter in starters:
            starter.wait()
    finally:
        store._launch = real  # other parts start real ones
        for sleeper in sleepers.iterdir():
            os.kill(int(sleeper.name), signal.SIGKILL)  # started above
    started = [run for path in folder.glob("started-*") for run in path.read_text().split()]
    folders, jobs = len(list(store.runs_root().iterdir())), len(queue.jobs())
    return {"starts": 2 * (rounds // 2), "jobs": jobs, "run_folders": folders, "ok": len(started) == folders == jobs == 1}


def _start_often(settings, at: float, rounds: int, told: Path) -> None:
    from spf.errors import TrainingError
    from spf.jobs import store

    def start(_: int) -> str:
        try:
            return store.start(settings).id
        except TrainingError:
            return ""

    time.sleep(max(0.0, at - time.time()))
    with ThreadPoolExecutor(8) as pool:
        told.write_text("\n".join(filter(None, pool.map(start, range(rounds)))))


def measure_server(kills: int, folder: Path) -> dict:
    """A process that starts a run and then only looks, as the page's server does."""
    from spf.jobs import store

    settings, rng, adopted, trainers = _settings(_pictures(folder), "served"), random.Random(0), 0, set()
    server = Forked(_serve, settings)
    run = _run_of("served")
    while store.status(run).state == "queued":
        time.sleep(0.1)
    bystander = subprocess.Popen(["sleep", "3600"])
    for _ in range(kills):
        server.kill()
        time.sleep(rng.uniform(0, 1))
        server = Forked(_serve, None)
        status = store.status(run)
        adopted += status.state in ("running", "completed")
        trainers.add(status.pid)
    server.kill()
    while store.status(run).state == "running":
        time.sleep(0.2)
    untouched, end = bystander.poll() is None, store.status(run)
    bystander.kill()
    bystander.wait()
    return {"kills": kills, "adopted": adopted, "training_processes": len(trainers), "end": end.state,
            "foreign_process_untouched": untouched,
            "ok": adopted == kills and len(trainers) == 1 and end.state == "completed" and untouched}


def _serve(settings) -> None:
    from spf.jobs import store

    if settings is not None:
        store.start(settings)
    while True:
        for run in store.runs():
            store.status(run)
        time.sleep(0.2)


class Forked:
    """A process of its own that need not import everything again."""

    def __init__(self, function, *arguments):
        self.pid = os.fork()
        if self.pid == 0:
            try:
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, 2)
                function(*arguments)
                os._exit(0)
            except BaseException:
                os._exit(1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


def _pictures(folder: Path, count: int = 8) -> Path:
    from spf.pocket.dataset import render_folder

    return render_folder("winter-hat", count, folder / "pictures")


def _settings(data: Path, name: str):
    from spf.config import parse_assignments

    return train_config("quick", {"data": str(data), "name": name} | parse_assignments(SMALL[1::2]))


def _run_of(name: str):
    """The run of that customization, as soon as it exists."""
    from spf.jobs import store

    while True:
        for run in store.runs():
            if run.config().name == name:
                return run
        time.sleep(0.05)


if __name__ == "__main__":
    main()
