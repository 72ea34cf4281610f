"""What the Teach tab does, as plain functions. Training runs in a process of its own, which is started and watched."""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from spf import config
from spf.config import GenerationRequest, TrainConfig, home, parse
from spf.data.check import check_folder
from spf.data.writer import save_upload
from spf.errors import InvalidInput, SpfError
from spf.pocket.dataset import render_folder
from spf.training.run_folder import FINAL_STATES, RunFolder, RunStatus
from spf.ui import catalog, dataset_handlers, overlay, strings
from spf.ui.generate_handlers import require_number

RENDERED, UPLOADED, FOLDER = "rendered", "uploaded", "folder"
CURVE_POINTS = 120  # per loss term: single steps are noise, their means show the trend
SAMPLE_OPACITY = 0.6
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class TeachForm:
    """The fields as the page holds them; nothing is checked before `start`."""

    source: str = RENDERED
    attribute: str | None = None
    count: Any = 64
    uploads: tuple[str, ...] = ()
    phrase: str = ""
    shared_base: str = ""
    table: tuple[tuple[str, str], ...] = ()  # (file name, base text) rows, in the order of the uploads
    name: str = ""
    budget: str | None = None
    model: str = catalog.DEFAULT_MODEL
    folder: str | None = None  # name of a picture set that is here already
    method: str | None = "spf"


class Watched:
    """The run an open page follows, and what it has shown of it already. Lives in a gr.State."""

    def __init__(self, run_id: str | None = None, announced: bool = True):
        self.follow(run_id, announced)

    def follow(self, run_id: str | None, announced: bool) -> None:
        """From now on follow `run_id`; `announced` says that its end is old news."""
        self.run_id, self.announced = run_id, announced
        self.updated, self.sample_step = 0.0, -1
        self.sample_at: int | None = None  # which sample is looked at, from 1; None: always the newest


@dataclass(frozen=True, eq=False)
class RunView:
    """A look at a run, in words and pictures."""

    headline: str
    detail: str
    share: float
    finished: bool
    failed: bool
    curve: pd.DataFrame
    losses: str  # the newest value of every term
    sample: tuple[Image.Image, Image.Image, Image.Image] | None
    sample_step: int
    log: str
    samples: int = 0  # how many there are
    stages: tuple[tuple[str, Image.Image], ...] = ()  # original, stage 1 alone, stage 2, where both are drawn and new
    taught: str | None = None  # the customization, where it is new to the page
    resumable: bool = False  # it ended early and can go on


def start(form: TeachForm) -> tuple[RunFolder, str]:
    """Write the pictures, look at them, and start the run; returns it and the report on the pictures.

    Raises SpfError; no pictures are then left behind.
    """
    from spf.jobs import store

    settings = _settings(form)  # everything that can be refused without a picture is refused first
    folder = Path(settings.data)
    _write_pictures(form, folder)
    try:
        return store.start(settings), check_folder(folder).to_text().removeprefix(f"{folder}: ")
    except SpfError:
        if form.source != FOLDER:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def plan(form: TeachForm) -> str:
    """What teaching would cost, measured on this device: a few lines. Nothing is left behind. Raises SpfError."""
    import torch

    from spf.baselines.registry import training_stages
    from spf.training.estimate import estimate

    settings = _settings(form)
    with tempfile.TemporaryDirectory() as scratch:
        if form.source != FOLDER:
            settings = settings.model_copy(update={"data": str(Path(scratch) / "pictures")})
            _write_pictures(form, Path(settings.data))
        found = estimate(settings, torch.device("cuda" if torch.cuda.is_available() else "cpu"), training_stages)
    lines = strings.PLAN_LINES.format(
        minutes=duration(found.seconds).capitalize(), memory=found.peak_memory_gb, pictures=found.pictures,
        held_out=found.validation_pictures)
    stages = [strings.PLAN_STAGE.format(
        stage=strings.RUN_STAGES.get(stage.name, stage.name), steps=stage.steps, batch=stage.global_batch,
        pace=stage.seconds_per_step) for stage in found.stages]
    return "\n".join([lines, *stages, strings.PLAN_MORE])


def _settings(form: TeachForm) -> TrainConfig:
    """The run's configuration. Raises InvalidInput for the first bad field, in the order of the page."""
    if form.source == RENDERED:
        _check_rendered(form)
    elif form.source == UPLOADED:
        _check_upload(form)
    for field, chosen in (("recipe", form.method), ("preset", form.budget)):
        if not chosen:
            raise InvalidInput(field, strings.NO_CHOICE)
    folder = (dataset_handlers.folder(form.folder) if form.source == FOLDER
              else home() / "datasets" / f"{form.name}-{uuid.uuid4().hex[:8]}")
    settings = config.train_config(form.budget, {
        "model": form.model, "name": form.name.strip(), "data": str(folder), "recipe": form.method})
    catalog.require_free(settings.name)
    return settings


def _check_rendered(form: TeachForm) -> None:
    if not form.attribute:
        raise InvalidInput("--attribute", strings.NO_CHOICE)
    require_number("count", form.count, 64)
    if not float(form.count).is_integer():
        raise InvalidInput("count", strings.NOT_WHOLE.format(value=form.count))


def _check_upload(form: TeachForm) -> None:
    """Texts are refused by the rules of the request that will use them, under the labels of the page."""
    if not form.uploads:
        raise InvalidInput("pictures", strings.NO_PICTURES)
    if not form.phrase.strip(" ,."):
        raise InvalidInput("phrase", strings.EMPTY_PHRASE)
    for base_text in dict.fromkeys(_base_texts(form)):
        try:
            parse(GenerationRequest, {"base_text": base_text, "target_texts": (form.phrase,)})
        except InvalidInput as error:
            field = "shared_base" if error.field == "base_text" else "phrase"
            raise InvalidInput(field, str(error).partition(": ")[2]) from None


def _base_texts(form: TeachForm) -> list[str]:
    """One per upload: its row of the table, or the shared text where that row is empty."""
    rows = {Path(name).name: text.strip() for name, text in form.table}
    return [rows.get(Path(path).name) or form.shared_base for path in form.uploads]


def _write_pictures(form: TeachForm, folder: Path) -> None:
    if form.source == RENDERED:
        render_folder(form.attribute, int(form.count), folder)
    elif form.source == UPLOADED:
        save_upload(form.uploads, _base_texts(form), form.phrase, folder)


def upload_table(uploads: list[str] | None) -> list[list[str]]:
    """Rows (file name, empty base text) for pictures that were just given."""
    return [[Path(path).name, ""] for path in uploads or []]


def suggested_name(source: str, attribute: str | None, phrase: str | None) -> str:
    """A free name made from what is taught; empty while nothing is chosen."""
    if source == FOLDER:
        return ""
    words = attribute if source == RENDERED else re.sub(r"^(a|an|the) ", "", (phrase or "").lower())
    wish = re.sub(r"[^a-z0-9]+", "-", words or "")[:48].strip("-")
    return catalog.free_name(wish) if wish else ""


def attach(watched: Watched) -> None:
    """Let a freshly opened page follow the run under way, else the last one, else nothing."""
    from spf.jobs import store

    known = store.runs()
    run = store.active() or (known[0] if known else None)
    watched.follow(run.id if run else None, announced=run is None or store.status(run).state in FINAL_STATES)


def follow(watched: Watched) -> RunView | None:
    """A look at the watched run; None where nothing changed since the last one. Notes in `watched` what was shown."""
    from spf.jobs import store

    if watched.run_id is None:
        return None
    run = store.run(watched.run_id)
    status = store.status(run)
    if status.updated == watched.updated:
        return None
    view = look(run, status, watched)
    watched.updated, watched.sample_step = status.updated, max(watched.sample_step, view.sample_step)
    watched.announced = watched.announced or view.finished
    return view


def look(run: RunFolder, status: RunStatus, watched: Watched) -> RunView:
    samples = run.samples()
    step = samples[-1]["step"] if samples else -1
    finished = status.state in FINAL_STATES
    failed = status.state in ("failed", "interrupted")
    new = status.state == "completed" and not watched.announced
    lines = run.metrics()
    new_sample = step > watched.sample_step
    return RunView(
        headline=strings.RUN_STATES[status.state].format(name=run.config().name), detail=_detail(run, status, new),
        share=1.0 if status.state == "completed" else status.step / max(status.total_steps, 1),
        finished=finished, failed=failed, curve=curve(lines), losses=losses(lines),
        sample=_sample(samples[-1]) if new_sample and watched.sample_at is None else None, sample_step=step,
        samples=len(samples), stages=_stages(lines, samples) if new_sample else (),
        log=printable(run.log_tail()) if failed else "", taught=run.config().name if new else None,
        resumable=finished and status.state != "completed")


def _detail(run: RunFolder, status: RunStatus, new: bool) -> str:
    if status.state == "completed":
        return strings.RUN_NEW if new else ""
    if status.state in FINAL_STATES:
        return status.message
    if run.cancel_requested():
        return strings.RUN_CANCELLING
    stage = strings.RUN_STAGES.get(status.stage, status.stage)
    if not status.stage:
        return stage
    words = strings.RUN_RUNNING.format(stage=stage, step=status.step, total=status.total_steps)
    return words if status.eta is None else f"{words} · {strings.RUN_ETA.format(eta=duration(status.eta))}"


def duration(seconds: float) -> str:
    """A waiting time in words."""
    if seconds < 90:
        return strings.SECONDS_LEFT.format(seconds=round(seconds))
    return strings.MINUTES.format(minutes=round(seconds / 60))


def curve(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Every *_loss term over the steps, averaged over equal stretches, as a share of its first stretch in the stage.

    The terms differ by orders of magnitude, and their sum has others in each stage; as shares they can be read on one axis.
    Columns as strings.CURVE_*.
    """
    width = max(1, (max((line["step"] for line in lines), default=0) + CURVE_POINTS) // CURVE_POINTS)
    groups: dict[tuple[str, str, int], list[float]] = {}
    for line in lines:
        for name in _terms(line):
            group = strings.TERMS.get(name, name), line.get("stage", ""), line["step"] // width
            groups.setdefault(group, []).append(line[name])
    first: dict[tuple[str, str], float] = {}
    rows = [(0.0, None, term) for term in strings.TERMS.values()]  # a plot shows no term that its first data did not name
    for (term, stage, part), values in sorted(groups.items()):
        mean = float(np.mean(values))
        rows.append((part * width + (width - 1) / 2, mean / (first.setdefault((term, stage), mean) or 1.0), term))
    frame = pd.DataFrame(rows, columns=[strings.CURVE_STEP, strings.CURVE_VALUE, strings.CURVE_TERM])
    return frame.astype({strings.CURVE_STEP: float, strings.CURVE_VALUE: float})


def losses(lines: list[dict[str, Any]]) -> str:
    """The newest value of every term, in words; nothing before the first."""
    last = lines[-1] if lines else {}
    return " · ".join(
        strings.LOSS.format(term=strings.TERMS.get(name, name), value=last[name]) for name in _terms(last))


def _terms(line: dict[str, Any]) -> list[str]:
    return [name for name in line if name.endswith("_loss")]


def _sample(paths: dict[str, Any]) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Original, customized, and the SFCM over the customized picture."""
    original, customized = (Image.open(paths[name]).convert("RGB") for name in ("original", "customized"))
    values = np.asarray(Image.open(paths["sfcm"]).convert("L"), np.float32) / 255
    return original, customized, overlay.blend(customized, values, SAMPLE_OPACITY)


def sample(watched: Watched, number: int) -> tuple[str, tuple[Image.Image, Image.Image, Image.Image]] | None:
    """One sample of the watched run, from 1, and what it is; the last one is left for every newer one. None without any."""
    from spf.jobs import store

    samples = store.run(watched.run_id).samples() if watched.run_id else []
    if not samples:
        return None
    watched.sample_at = number if number < len(samples) else None
    chosen = samples[max(min(number, len(samples)), 1) - 1]
    return strings.SAMPLE.format(step=chosen["step"]), _sample(chosen)


def _stages(lines: list[dict[str, Any]], samples: list[dict[str, Any]]) -> tuple[tuple[str, Image.Image], ...]:
    """Original, the last sample of stage 1 and the last one of stage 2, with titles; nothing until both are there."""
    begins = next((line["step"] for line in lines if line.get("stage") == "stage2"), 0)  # counted from 0, as samples are not
    first = [one for one in samples if one["step"] <= begins]
    second = samples[len(first):]
    if not first or not second:
        return ()
    paths = (first[-1]["original"], first[-1]["customized"], second[-1]["customized"])
    steps = (0, first[-1]["step"], second[-1]["step"])
    return tuple((title.format(step=step), Image.open(path).convert("RGB"))
                 for title, step, path in zip(strings.STAGES_PICTURES, steps, paths, strict=True))


def printable(text: str) -> str:
    """A log without the control characters that terminals take as commands."""
    return _ESCAPES.sub("", text)


def ask(watched: Watched, what: str) -> str:
    """Ask the watched run to cancel, pause, save or sample before its next step; returns what to tell. Raises SpfError."""
    from spf.jobs import store

    if watched.run_id is None:
        return ""
    store.ask(watched.run_id, what)
    watched.updated = 0.0  # so that the next look tells it
    return strings.ASKED[what]


def resume(watched: Watched) -> str:
    """Let the watched run go on from its newest checkpoint. Raises SpfError naming what is no longer as it was."""
    from spf.jobs import store

    if watched.run_id is not None:
        store.resume(watched.run_id)
        watched.follow(watched.run_id, announced=False)
    return ""
