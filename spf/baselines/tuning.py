"""Equal chances for every method: the same number of tried settings, the same judge, and a record of all of it."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spf.errors import InvalidInput

Settings = dict[str, Any]  # dotted settings of a training run or of a guide


@dataclass(frozen=True)
class Trial:
    method: str
    settings: Settings
    score: float | None  # higher is better; None: the trial failed, or its score was no number
    problem: str = ""  # why there is no score


def candidates(space: Mapping[str, Sequence[Any]], budget: int, seed: int) -> list[Settings]:
    """`budget` different settings from the grid of a search space, in an order drawn from `seed`.

    All of the grid if it is not larger. Raises InvalidInput for an empty space or a budget below 1.
    """
    if budget < 1 or not all(space.values()):
        raise InvalidInput("tuning", "needs a budget of at least 1 and a value for every setting")
    grid = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    return random.Random(seed).sample(grid, min(budget, len(grid)))


def tune(spaces: Mapping[str, Mapping[str, Sequence[Any]]], budget: int, score: Callable[[str, Settings], float], record: Path,
         seed: int = 0) -> dict[str, Trial]:
    """The best trial of each method, after `budget` trials of every one; `record` is written after each trial.

    `score(method, settings)` trains and judges, on pictures that no table uses. A trial that raises or gives no number
    counts against the budget and is recorded with its reason. Trials that `record` holds already are not repeated.
    Raises InvalidInput if no method has a grid of `budget` settings, or a method has no trial with a score.
    """
    plan = [(method, settings) for method, space in spaces.items() for settings in candidates(space, budget, seed)]
    short = [method for method in spaces if sum(name == method for name, _ in plan) < budget]
    if short:
        raise InvalidInput("tuning", f"the space of '{short[0]}' holds fewer than {budget} settings; budgets must be equal")
    trials = [trial for trial in _read(record) if (trial.method, trial.settings) in plan]
    for method, settings in plan:
        if (method, settings) not in [(trial.method, trial.settings) for trial in trials]:
            trials.append(_tried(method, settings, score))
            _write(record, trials, budget, seed)
    return {method: _best(method, trials) for method in spaces}


def _tried(method: str, settings: Settings, score: Callable[[str, Settings], float]) -> Trial:
    try:
        value = float(score(method, dict(settings)))
    except Exception as error:  # noqa: BLE001 - one setting that diverges must not end the search
        return Trial(method, settings, None, f"{type(error).__name__}: {error}")
    return Trial(method, settings, value) if math.isfinite(value) else Trial(method, settings, None, "the score is no number")


def _best(method: str, trials: Sequence[Trial]) -> Trial:
    scored = [trial for trial in trials if trial.method == method and trial.score is not None]
    if not scored:
        raise InvalidInput("tuning", f"no trial of '{method}' has a score; look into the record for the reasons")
    return max(scored, key=lambda trial: trial.score)


def _read(record: Path) -> list[Trial]:
    try:
        return [Trial(**values) for values in json.loads(record.read_text(encoding="utf-8"))["trials"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidInput("tuning", f"{record} is damaged; delete it or choose another file") from None


def _write(record: Path, trials: Sequence[Trial], budget: int, seed: int) -> None:
    text = json.dumps({"budget": budget, "seed": seed, "trials": [asdict(trial) for trial in trials]}, indent=2)
    staged = record.with_name(record.name + ".partial")
    staged.write_text(text + "\n", encoding="utf-8")
    os.replace(staged, record)
