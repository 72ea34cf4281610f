"""Stand-ins with the interfaces of the generation service and the job store: no model, no training, real pictures."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from spf.config import GenerationRequest, TrainConfig, home
from spf.errors import Cancelled
from spf.generation.request import GenerationResult, StepMaps, StepView
from spf.jobs import store
from spf.method.phrases import join_prompt
from spf.pocket import renderer, world
from spf.training.run_folder import RunFolder, RunStatus

GRID = 16  # side of the maps


class FakeService:
    """Draws the embedded world's own pictures; the target phrase decides which attribute the customized one has."""

    def __init__(self, seconds_per_step: float = 0.0, map_of: Callable[[int], np.ndarray] | None = None):
        self.seconds_per_step = seconds_per_step
        self.map_of = map_of or blob  # the SFCM of a step, for empty and broken ones
        self.requests: list[GenerationRequest] = []

    def load(self, model: str) -> None:
        pass

    def generate(self, request: GenerationRequest, on_step=None, is_cancelled=lambda: False) -> GenerationResult:
        self.requests.append(request)
        prompt = join_prompt(request.base_text, request.target_texts)
        original, customized = pictures(request)
        noise = np.random.default_rng(request.seed).integers(0, 256, (*original.size, 3), dtype=np.uint8)
        maps, count = [], request.num_inference_steps
        every = max(1, count // request.map_steps) if request.map_steps else count + 1
        for step in range(count):
            if is_cancelled():
                raise Cancelled("Generation was cancelled.")
            time.sleep(self.seconds_per_step)
            if (step + 1) % every == 0:
                maps.append(self._maps(step, count, len(prompt.phrases), len(prompt.targets)))
                if on_step:
                    growing = [Image.blend(Image.fromarray(noise), picture, (step + 1) / count)
                               for picture in (original, customized)]
                    on_step(StepView(step, count, lambda growing=growing: tuple(growing), maps[-1]))
        metrics = {"mean_absolute_difference": 0.031, "outside_sfcm": float("nan"), "clip_target_margin": 0.042,
                   "sfcm_mean": float(np.mean([one.sfcm for one in maps])) if maps else 0.0}
        seconds = {"original": 2.1, "customized": 2.2, "maps": 0.6}
        return GenerationResult(request, original, customized, prompt, np.linspace(0, 0.4, len(prompt.phrases)), maps,
                                metrics, seconds)

    def generate_all(self, request: GenerationRequest, on_step=None, is_cancelled=lambda: False) -> Iterator[GenerationResult]:
        """One seed after another, as where memory is short."""
        for index, single in enumerate(request.one_by_one()):
            yield self.generate(single, on_step and partial(on_step, index), is_cancelled)

    def _maps(self, step: int, count: int, phrases: int, targets: int) -> StepMaps:
        sfcm = self.map_of(step)
        layers = np.stack([[blob(i + group) for i in range(2 * phrases + targets)] for group in range(2)])
        return StepMaps(step, 999 - 999 * step // count, blob(step), sfcm, np.stack([blob(i) for i in range(phrases)]),
                        np.stack([blob(i) for i in range(targets)]) if targets else np.zeros((0, GRID, GRID)),
                        np.stack([blob(i + 9) for i in range(phrases)]), ("8x8", "16x16"), layers)


class TogetherService(FakeService):
    """Draws `at_once` seeds in one batch: each is heard of at every step, and their results come at once."""

    def __init__(self, at_once: int, seconds_per_step: float = 0.0):
        super().__init__(seconds_per_step)
        self.at_once = at_once

    def generate_all(self, request: GenerationRequest, on_step=None, is_cancelled=lambda: False) -> Iterator[GenerationResult]:
        waiting = list(enumerate(request.one_by_one()))
        while waiting:
            batch, waiting = waiting[:self.at_once], waiting[self.at_once:]
            seen: list[list[StepView]] = [[] for _ in batch]
            results = [self.generate(single, views.append) for (_, single), views in zip(batch, seen, strict=True)]
            for step in zip(*seen, strict=True):
                time.sleep(self.seconds_per_step)
                if is_cancelled():
                    raise Cancelled("Generation was cancelled.")
                for (index, _), view in zip(batch, step, strict=True):
                    on_step(index, view)
            yield from results


def blob(step: int) -> np.ndarray:
    """A soft round spot in the upper half, (GRID, GRID) in [0, 1]."""
    y, x = np.mgrid[0:GRID, 0:GRID] / GRID
    return np.exp(-((x - 0.5) ** 2 + (y - 0.2 - 0.005 * step) ** 2) / 0.04)


def pictures(request: GenerationRequest) -> tuple[Image.Image, Image.Image]:
    """The same person without and with the first target phrase that the embedded world knows."""
    known = {phrase: target.name for target in world.TARGETS.values() for phrase in target.phrases}
    target = next((known[phrase] for phrase in request.target_texts if phrase in known), None)
    portrait = world.sample_portrait(random.Random(request.seed))
    changed = portrait if target is None else replace(portrait, targets=(target,))
    return renderer.draw(portrait), renderer.draw(changed)


def add_customization(root: Path, name: str, *phrases: str, model: str = "pocket") -> Path:
    """A customization's card with a file that holds no weights."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"")
    card = {"name": name, "model": model, "model_sha256": "0" * 64, "phrases": phrases, "stage": "both",
            "created": "2026-01-01"}
    (folder / "customization.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


class FakeTraining:
    """Put in place of `store.start`: a thread that writes a run folder as the training process would."""

    def __init__(self, steps: int = 40, seconds_per_step: float = 0.05, fails_at: int | None = None):
        self.steps, self.seconds_per_step, self.fails_at = steps, seconds_per_step, fails_at

    def __call__(self, config: TrainConfig) -> RunFolder:
        folder = store.prepare(config)
        folder.write_status(self._status("running", 0))
        threading.Thread(target=self._train, args=(folder, config), daemon=True).start()
        return folder

    def resume(self, run_id: str) -> RunFolder:
        """In place of `store.resume`: goes on after the step at which the run was cancelled."""
        folder = store.run(run_id)
        folder.clear_requests()
        threading.Thread(target=self._train, args=(folder, folder.config(), folder.status().step), daemon=True).start()
        return folder

    def _status(self, state: str, step: int, **more) -> RunStatus:
        here = RunStatus.of_this_process(state)
        stage = "stage1" if step < self.steps // 2 else "stage2"
        return RunStatus(state=state, stage=stage if step else "", step=step, total_steps=self.steps,
                         eta=(self.steps - step) * self.seconds_per_step, pid=here.pid,
                         pid_created=here.pid_created, **more)

    def _train(self, folder: RunFolder, config: TrainConfig, done: int = 0) -> None:
        first = (Path(config.data) / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[0]
        phrase = json.loads(first)["target_text"]
        for step in range(done + 1, self.steps + 1):
            time.sleep(self.seconds_per_step)
            if folder.cancel_requested():
                return folder.write_status(self._status("cancelled", step, message="Training was cancelled."))
            if step == self.fails_at:
                (folder.path / "log.txt").write_text("stage2: \x1b[31mloss is nan\x1b[0m\n", encoding="utf-8")
                return folder.write_status(self._status("failed", step, message="loss is not a finite number."))
            self._log(folder, step)
            if step % 10 == 0:
                request = GenerationRequest(base_text="a person", target_texts=(phrase,), seed=3)
                folder.save_sample(step, *pictures(request), blob(0).astype(np.float32))
            folder.write_status(self._status("running", step))
        add_customization(home() / "customizations", config.name, phrase)
        return folder.write_status(self._status("completed", self.steps, message=config.name))

    def _log(self, folder: RunFolder, step: int) -> None:
        losses = {"diff_loss": 0.2 + 1 / (step + 4)}
        if step >= self.steps // 2:
            losses |= {"text_loss": 0.1 / step, "fine_loss": 0.3 / step, "enhanced_loss": 0.05}
        stage = "stage1" if step <= self.steps // 2 else "stage2"
        folder.log({"stage": stage, "step": step - 1, "loss": sum(losses.values()), **losses})
