"""The page's functions for programs, by name: what can be done on the page without a browser. docs/api.md shows each."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from spf.config import GenerationRequest, model_preset, parse
from spf.errors import InvalidInput, SpfError
from spf.generation.history import describe, read_result, save_result
from spf.generation.request import GenerationResult
from spf.ui import catalog, inspector, library_handlers, strings, teach_handlers
from spf.ui.live import Service
from spf.ui.teach_handlers import TeachForm
from spf.ui.wiring import DEVICE_QUEUE

log = logging.getLogger(__name__)
HISTORY_LIMIT = 200
_PICTURES = ("original.png", "customized.png", "sfcm.png", "maps.npz")


def add_api(service: Service) -> None:
    """Register the endpoints in the current gradio context."""
    def generate(base_text: str, target_texts: list[str] | None = None, customization: str = "", seed: int = 0,
                 num_inference_steps: int = 0, guidance_scale: float = 0.0, map_steps: int = 5,
                 negative_prompt: str = "", model: str = catalog.DEFAULT_MODEL,
                 target_weights: list[float] | None = None, scheduler: str = "", width: int = 0, height: int = 0,
                 count: int = 1, hold: float = 0.0) -> dict:
        """Draw a pair and save it. Steps, guidance or sides of 0 mean the model's own; a hold of 0 draws as
        the paper does, above it is the gain of the map outside which the original is held. Returns settings, metrics and files.

        More than one are drawn from so many seeds in a row, together where they fit into memory, and returned as 'pairs'.
        """
        preset = model_preset(model)
        request = parse(GenerationRequest, {
            "model": model, "customization": customization or None, "base_text": base_text,
            "target_texts": tuple(target_texts or ()), "target_weights": tuple(target_weights or ()),
            "negative_prompt": negative_prompt, "seed": seed, "scheduler": scheduler or None, "width": width or None,
            "height": height or None, "count": count, "hold": {"gain": hold} if hold else None,
            "num_inference_steps": num_inference_steps or preset.num_inference_steps,
            "guidance_scale": guidance_scale or preset.guidance_scale, "map_steps": map_steps})
        if count == 1:
            return _saved(service.generate(request))
        return {"pairs": [_saved(result) for result in service.generate_all(request)]}

    gr.api(_typed_errors(generate), api_name="generate", concurrency_limit=1, concurrency_id=DEVICE_QUEUE)
    for function in (inspect, train, jobs, job, cancel, resume, customizations, history, export):
        gr.api(_typed_errors(function), api_name=function.__name__)


def _saved(result: GenerationResult) -> dict:
    """Save a result; what there is to say about it."""
    folder = save_result(result, catalog.outputs())
    return describe(result) | {"id": _id(folder), "files": _files(folder)}


def _typed_errors(function: Callable) -> Callable:
    """SpfError reaches the client as its sentence; anything else is logged and told in general words."""
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except SpfError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception:
            log.exception("/%s failed", function.__name__)
            raise gr.Error(strings.UNEXPECTED, print_exception=False) from None

    return guarded


def inspect(result_id: str) -> dict:
    """Every map of a saved result in numbers: lowest, mean and highest value at each drawn step, and what is wrong with it."""
    result = read_result(_folder(result_id))
    if not result.maps:
        raise InvalidInput("result_id", strings.MAP_NONE)
    maps = inspector.maps_of(result)
    return {
        "prompt": result.prompt.text, "messages": [*inspector.messages(result, maps), *inspector.remarks(maps)],
        "steps": [{"step": one.step, "timestep": one.timestep} for one in result.maps],
        "maps": [{"key": entry["key"], "name": entry["name"], "span": [entry["start"], entry["end"]],
                  "values": [_numbers(one) for one in values]} for entry, values in maps],
        "gamma": [round(float(value), 4) for value in result.gamma], "files": _files(_folder(result_id))}


def _numbers(values: np.ndarray) -> dict[str, float | None]:
    """Of one map; None where they are no numbers."""
    return {name: round(float(value), 4) if np.isfinite(value) else None
            for name, value in (("low", values.min()), ("mean", values.mean()), ("high", values.max()))}


def _folder(result_id: str) -> Path:
    """The folder of a saved result. Raises InvalidInput for anything that is not the id of one."""
    folder = catalog.outputs() / result_id
    if not re.fullmatch(r"\d{4}-\d\d-\d\d/\d{6}-\d{1,19}(-\d{1,6})?", result_id) or not folder.is_dir():
        raise InvalidInput("result_id", strings.NO_RESULT)
    return folder


def _id(folder: Path) -> str:
    return folder.relative_to(catalog.outputs()).as_posix()


def train(attribute: str, name: str, count: int = 64, preset: str = "quick",
          model: str = catalog.DEFAULT_MODEL, method: str = "spf") -> dict:
    """Teach a held-out attribute of the embedded world from `count` rendered pictures. Returns the run; see /job."""
    form = TeachForm(attribute=attribute, count=count, name=name, budget=preset, model=model, method=method)
    run, report = teach_handlers.start(form)
    return job(run.id) | {"report": report}


def jobs() -> dict:
    """Every training run under 'jobs', newest first, as /job tells it."""
    from spf.jobs import store

    return {"jobs": [job(run.id) for run in store.runs()[:HISTORY_LIMIT]]}


def job(run_id: str) -> dict:
    """State, progress, seconds left and last loss values of a training run."""
    from spf.jobs import store

    run = store.run(run_id)
    status = store.status(run)
    lines = run.metrics()
    return {"run_id": run.id, "name": run.config().name, **status.model_dump(exclude={"pid", "pid_created"}),
            "metrics": lines[-1] if lines else {}}


def cancel(run_id: str) -> dict:
    """Ask a training run to stop after its current step."""
    from spf.jobs import store

    store.cancel(run_id)
    return job(run_id)


def resume(run_id: str) -> dict:
    """Let a run that ended early go on from its newest checkpoint."""
    from spf.jobs import store

    store.resume(run_id)
    return job(run_id)


def export(name: str, format: str = "lora") -> dict:  # noqa: A002 - the name that the command line has, too
    """Write a customization as a file for other tools: lora, delta or single-file."""
    if format not in strings.LIBRARY_EXPORT_KINDS:
        raise InvalidInput("format", f"'{format}' is not known; choose one of {', '.join(strings.LIBRARY_EXPORT_KINDS)}")
    return {"file": _file(library_handlers.export(name, format))}


def customizations() -> dict:
    """Every customization by name: model, phrases, when and from what it was taught."""
    found = catalog.customizations()
    return {name: one.card.model_dump(mode="json") | {"shipped": one.shipped} for name, one in found.items()}


def history(limit: int = 20) -> dict:
    """The newest saved results under 'results', each with its settings, metrics and files."""
    found = sorted(catalog.outputs().glob("*/*/result.json"), reverse=True)[:max(0, min(limit, HISTORY_LIMIT))]
    return {"results": [
        json.loads(path.read_text(encoding="utf-8")) | {"id": _id(path.parent), "files": _files(path.parent)}
        for path in found]}


def _files(folder: Path) -> dict[str, Any]:
    return {Path(name).stem: _file(folder / name) for name in _PICTURES if (folder / name).is_file()}


def _file(path: Path) -> dict[str, Any]:
    """A file in the form that makes gradio's clients download it."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
