"""The page's functions for programs: /generate /train /job /cancel /customizations /history."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from spf.config import GenerationRequest, model_preset, parse
from spf.errors import SpfError
from spf.generation.history import describe, save_result
from spf.ui import catalog, strings, teach_handlers
from spf.ui.generate_panel import DEVICE_QUEUE
from spf.ui.live import Service
from spf.ui.teach_handlers import TeachForm

log = logging.getLogger(__name__)
HISTORY_LIMIT = 200
_PICTURES = ("original.png", "customized.png", "sfcm.png", "maps.npz")


def add_api(service: Service) -> None:
    """Register the endpoints in the current gradio context."""
    def generate(base_text: str, target_texts: list[str] | None = None, customization: str = "", seed: int = 0,
                 num_inference_steps: int = 0, guidance_scale: float = 0.0, map_steps: int = 5,
                 negative_prompt: str = "", model: str = catalog.DEFAULT_MODEL) -> dict:
        """Draw a pair and save it. Steps or guidance of 0 mean the model's own. Returns settings, metrics and files."""
        preset = model_preset(model)
        request = parse(GenerationRequest, {
            "model": model, "customization": customization or None, "base_text": base_text,
            "target_texts": tuple(target_texts or ()), "negative_prompt": negative_prompt, "seed": seed,
            "num_inference_steps": num_inference_steps or preset.num_inference_steps,
            "guidance_scale": guidance_scale or preset.guidance_scale, "map_steps": map_steps})
        result = service.generate(request)
        folder = save_result(result, catalog.outputs())
        return describe(result) | {"files": _files(folder)}

    gr.api(_typed_errors(generate), api_name="generate", concurrency_limit=1, concurrency_id=DEVICE_QUEUE)
    for function in (train, job, cancel, customizations, history):
        gr.api(_typed_errors(function), api_name=function.__name__)


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


def train(attribute: str, name: str, count: int = 64, preset: str = "quick",
          model: str = catalog.DEFAULT_MODEL) -> dict:
    """Teach a held-out attribute of the embedded world from `count` rendered pictures. Returns the run; see /job."""
    form = TeachForm(attribute=attribute, count=count, name=name, budget=preset, model=model)
    run, report = teach_handlers.start(form)
    return job(run.id) | {"report": report}


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


def customizations() -> dict:
    """Every customization by name: model, phrases, when and from what it was taught."""
    found = catalog.customizations()
    return {name: one.card.model_dump(mode="json") | {"shipped": one.shipped} for name, one in found.items()}


def history(limit: int = 20) -> dict:
    """The newest saved results under 'results', each with its settings, metrics and files."""
    found = sorted(catalog.outputs().glob("*/*/result.json"), reverse=True)[:max(0, min(limit, HISTORY_LIMIT))]
    return {"results": [
        json.loads(path.read_text(encoding="utf-8")) | {"files": _files(path.parent)} for path in found]}


def _files(folder: Path) -> dict[str, Any]:
    """The folder's files in the form that makes gradio's clients download them."""
    return {Path(name).stem: {"path": str(folder / name), "orig_name": name, "meta": {"_type": "gradio.FileData"}}
            for name in _PICTURES if (folder / name).is_file()}
