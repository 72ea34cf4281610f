"""The whole evaluation: weights, pictures and scores of every row and target, each made once and found again later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spf import config as cfg
from spf.backbones import checkpoints
from spf.backbones.base import Backbone
from spf.baselines.registry import make_guide
from spf.clip import Clip
from spf.config import EvaluatedMethod, EvaluationConfig, GenerationRequest
from spf.errors import InvalidInput
from spf.evaluation.columns import Columns, columns
from spf.evaluation.sampling import Sampling, sample, sample_guided, to_pixels
from spf.evaluation.store import Store, key_of, pack, unpack
from spf.evaluation.testset import Triple, chunks, pairs_of, reconstructions_of, targets_of, triples
from spf.evaluation.trained import Train, Trainer, model_key
from spf.generation.guide import Guide
from spf.generation.pair import Pair
from spf.generation.together import run_together
from spf.library import Customization
from spf.method.phrases import Prompt
from spf.metrics.base import Pairs, Rows
from spf.pocket.autoencoder import to_images

PRESERVATION = ("fid", "kid", "lpips", "id", "clip_i", "seg_cons", "untouched", "pixels_outside", "features_outside")


@dataclass(frozen=True)
class Cell:
    """One row of a table on one target: the unit of work. `full` draws the whole prompt, else the base text alone."""

    row: str
    target: str
    full: bool = True
    settings: tuple[tuple[str, float], ...] = ()  # of the sensitivity study: training settings that differ from the row's

    @property
    def label(self) -> str:
        changed = "".join(f" {name}={value:g}" for name, value in self.settings)
        return f"{self.row}{changed} on {self.target}" + ("" if self.full else " (base text)")


@dataclass(eq=False)
class Evaluation:
    """`train` carries out one training run: values of the command line, and the library that it writes into."""

    config: EvaluationConfig
    device: torch.device
    train: Train

    def __post_init__(self) -> None:
        self.preset = cfg.model_preset(self.config.model)
        self.targets = targets_of(self.config)
        self.folder = cfg.home() / "evaluation" / self.config.name
        self.pictures, self.scores = Store(self.folder / "pictures"), Store(self.folder / "scores")
        self.trainer = Trainer(self.config, self.preset, self.folder, self.train)
        self.how = Sampling.of(self.config, self.preset)
        self._pieces: dict[str, list[list[Triple]]] = {}
        self._weights_keys: dict[Cell, str] = {}
        self._originals: dict[str, dict[int, Tensor]] = {}  # of the target at hand, by the first seed of a piece

    @cached_property
    def reference(self) -> Backbone:
        return checkpoints.load_backbone(self.preset, self.device)

    @cached_property
    def _clip(self) -> Clip:
        return Clip.load(self.preset.clip).to(self.device)

    @cached_property
    def columns(self) -> Columns:
        return columns(self.config, self.preset, self.device)

    def cells(self) -> list[Cell]:
        """All work, target by target, so that what belongs to one target lies in one shard."""
        config = self.config
        found = [Cell(row, target, full) for target in self.targets for full in (True, False)
                 for row in (config.shown if full else config.reconstruction)]
        if config.sensitivity is not None:
            found += [Cell(config.sensitivity.row, target, True, ((name, value),)) for target in config.sensitivity.targets
                      for name, values in config.sensitivity.values.items() for value in values]
        return found

    def run(self, shard: tuple[int, int] = (0, 1)) -> bool:
        """Do the work of one shard (index, count); whether everything of all shards is there afterwards.

        Raises InvalidInput if there are more shards than targets.
        """
        index, count = shard
        if count > len(self.targets):
            raise InvalidInput("--shard", f"at most {len(self.targets)} shards, one for each target (got {count})")
        own = [cell for cell in self.cells() if self.targets.index(cell.target) % count == index]
        pieces = [(cell, piece) for cell in own for piece in self.pieces(cell.target)]
        with tqdm(total=sum(len(piece) for _, piece in pieces), desc="evaluating", unit="pair") as bar:
            for cell in own:
                bar.set_description(cell.label)
                for piece in self._measure(cell):
                    bar.update(len(piece))
        return all(self.rows(cell) is not None for cell in self.cells())

    def pieces(self, target: str) -> list[list[Triple]]:
        if target not in self._pieces:
            self._pieces[target] = chunks(triples(self.config, target), self.config.batch_size)
        return self._pieces[target]

    def rows(self, cell: Cell) -> dict[str, Rows] | None:
        """All scores of a cell by extractor, or None if some are not there yet."""
        parts = [self.scores.load(self._scores_key(cell, piece)) for piece in self.pieces(cell.target)]
        if any(part is None for part in parts):
            return None
        unpacked = [unpack(part) for part in parts if part is not None]
        return {name: Rows.joined([part[name] for part in unpacked]) for name in unpacked[0]}

    def original(self, piece: Sequence[Triple]) -> np.ndarray:
        """The portraits of the original model, (B, H, W, 3) uint8: drawn once, shared by all rows."""
        return self.stored(self._original_key(piece), lambda: sample(
            self.reference, [c.base for c in piece], [c.seed for c in piece], self.how))

    def customized(self, cell: Cell, piece: Sequence[Triple], response: Callable[[], Backbone]) -> np.ndarray:
        """The portraits of a cell, (B, H, W, 3) uint8; `response` loads the weights, if they have to be drawn."""
        prompts, seeds = [case.prompt if cell.full else case.base for case in piece], [case.seed for case in piece]
        return self.stored(self._pictures_key(cell, piece), lambda: self.draw(cell, prompts, seeds, response()))

    def draw(self, cell: Cell, prompts: Sequence[Prompt], seeds: Sequence[int], response: Backbone) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] of B prompts from B seeds, as the row of a cell samples."""
        method = self.method(cell)
        if method.hold is not None:
            return self._held(cell, prompts, seeds, response)
        if method.guide is None:
            return sample(response, prompts, seeds, self.how)
        return sample_guided(response, prompts, seeds, self.how, lambda prompt: self._guide(cell, prompt))

    def stored_pairs(self, cell: Cell) -> list[tuple[str, str, list[str]]]:
        """Of every piece: the keys of the originals and of the portraits, and what was asked for."""
        return [(self._original_key(piece), self._pictures_key(cell, piece),
                 [(case.prompt if cell.full else case.base).text for case in piece]) for piece in self.pieces(cell.target)]

    def portraits(self, cell: Cell, piece: Sequence[Triple]) -> np.ndarray:
        """The same, with the weights found here."""
        return self.customized(cell, piece, once(lambda: self.response(self.weights(cell))))

    def method(self, cell: Cell) -> EvaluatedMethod:
        row = self.config.methods[cell.row]
        return row.model_copy(update={"train": {**(row.train or {}), **dict(cell.settings)}}) if cell.settings else row

    def weights(self, cell: Cell) -> Customization | None:
        """The customization that a cell samples with, trained first if it is missing."""
        return self.trainer.customization(cell.row, cell.target, self.method(cell))

    def lineage(self, cell: Cell) -> list[Customization]:
        """The customization of a cell, the one that it starts from, and so on."""
        found, row = [self.weights(cell)], self.config.methods[cell.row]
        while row.start and not row.ready(cell.target):
            found.append(self.trainer.customization(row.start, cell.target))
            row = self.config.methods[row.start]
        return [customization for customization in found if customization is not None]

    def _measure(self, cell: Cell) -> Iterator[Sequence[Triple]]:
        """Scores of a cell, piece by piece, where they are not there yet."""
        found = self.weights(cell)
        response = once(lambda: self.response(found))
        for piece in self.pieces(cell.target):
            key = self._scores_key(cell, piece)
            if self.scores.load(key) is None:
                original, custom = self._original_images(piece), to_images(self.customized(cell, piece, response), self.device)
                pairs = (pairs_of if cell.full else reconstructions_of)(piece, original, custom)
                self.scores.save(key, pack(self._score(pairs, cell.full)))
            yield piece

    def _original_images(self, piece: Sequence[Triple]) -> Tensor:
        """(B, 3, H, W), the same object for every row: the columns' networks remember what they saw of it."""
        target, first = piece[0].target, piece[0].seed
        if target not in self._originals:
            self._originals = {target: {}}
        known = self._originals[target]
        if first not in known:
            known[first] = to_images(self.original(piece), self.device)
        return known[first]

    def _guide(self, cell: Cell, prompt: Prompt) -> Guide:
        return make_guide(self._request(cell, prompt), self.preset)

    def _request(self, cell: Cell, prompt: Prompt, seed: int = 0) -> GenerationRequest:
        method = self.method(cell)
        return GenerationRequest(
            model=self.config.model, base_text=prompt.base.text, target_texts=tuple(target.text for target in prompt.targets),
            num_inference_steps=self.how.num_inference_steps, guidance_scale=self.how.guidance_scale, seed=seed, map_steps=0,
            guide=method.guide, hold=method.hold)

    @torch.inference_mode()
    def _held(self, cell: Cell, prompts: Sequence[Prompt], seeds: Sequence[int], response: Backbone) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] of pairs whose original is held outside the SFCM."""
        guided = self.method(cell).guide is not None
        pairs = [Pair(self.reference, response, self._clip, self.how.resolution, self._request(cell, prompt, seed),
                      self.preset.method, self._guide(cell, prompt) if guided else None)
                 for prompt, seed in zip(prompts, seeds, strict=True)]
        pictures = np.stack([np.asarray(result.customized) for result in run_together([pair.steps() for pair in pairs])])
        return to_images(pictures, self.device)

    def response(self, found: Customization | None) -> Backbone:
        if found is None:
            return self.reference
        tensors = found.tensors()
        response = self.reference.fork(tensors)
        checkpoints.apply(response, tensors)
        return response

    def _score(self, pairs: Pairs, full: bool) -> dict[str, Rows]:
        """Rows of every extractor, under the first column that uses it."""
        used: dict[str, Rows] = {}
        for metric in self.columns.metrics:
            name = self.extractor_of(metric.key)
            if name not in used and (full or metric.key in PRESERVATION):
                used[name] = metric.extractor(pairs)
        return used

    def extractor_of(self, key: str) -> str:
        """The name under which the rows of a column are stored: that of the first column with the same extractor."""
        metrics = self.columns.metrics
        extractor = next(metric.extractor for metric in metrics if metric.key == key)
        return next(metric.key for metric in metrics if metric.extractor is extractor)

    def _original_key(self, piece: Sequence[Triple]) -> str:
        return key_of(model=model_key(self.preset), how=self.how, cases=[(c.base_text, c.seed) for c in piece])

    def _pictures_key(self, cell: Cell, piece: Sequence[Triple]) -> str:
        method = self.method(cell)
        if cell not in self._weights_keys:  # costs as much as reading the training preset
            self._weights_keys[cell] = self.trainer.key(cell.row, cell.target, method)
        return key_of(
            weights=self._weights_keys[cell], guide=method.guide, hold=method.hold, how=self.how,
            model=model_key(self.preset),
            cases=[((case.prompt if cell.full else case.base).text, case.seed) for case in piece])

    def _scores_key(self, cell: Cell, piece: Sequence[Triple]) -> str:
        names = sorted((metric.key, metric.extractor.name) for metric in self.columns.metrics)
        return key_of(pictures=self._pictures_key(cell, piece), names=names, embedded=self.columns.fingerprint)

    def stored(self, key: str, draw: Callable[[], Tensor]) -> np.ndarray:
        found = self.pictures.load(key)
        if found is None:
            started = time.monotonic()
            found = {"pixels": to_pixels(draw()), "seconds": np.array(time.monotonic() - started)}
            self.pictures.save(key, found)
        return found["pixels"]


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """`make`, called when first needed and never again."""
    made: list[Any] = []

    def get() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return get

