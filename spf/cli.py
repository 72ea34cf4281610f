"""The command line. Every verb turns flags into the schema of spf.config and hands over; errors are one clear line.

Exit status: 0 done, 1 failed or cancelled, 2 bad input. Heavy imports wait until a verb needs them, so --help is quick.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from spf.errors import Cancelled, InvalidInput, SpfError, TrainingError

if TYPE_CHECKING:
    from spf.config import ModelPreset

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="SPF-Portrait Studio: text-to-portrait customization that changes only what you asked for.")
dataset = typer.Typer(no_args_is_help=True, help="Picture sets: check, filter, draw, or render one of the embedded world.")
app.add_typer(dataset, name="dataset")
jobs_app = typer.Typer(invoke_without_command=True, help="Training runs: list them, pause, save, sample, show the log.")
app.add_typer(jobs_app, name="jobs")

PROGRAM = "python -m spf"
INTERRUPTED = 130  # the shell's status of Ctrl+C, which typer returns


def _path(text: str) -> Path:
    """A path as it was given. An empty one would be the folder that the command is called in, which nobody named."""
    if not text.strip():
        raise ValueError("it is empty; name a folder or file")
    return Path(text)


def _place(text: str, hidden: bool = False) -> Any:
    """An option that takes a path; `text` is its help."""
    return typer.Option(parser=_path, help=text, hidden=hidden)


Folder = Annotated[Path, typer.Argument(parser=_path, metavar="FOLDER")]
Out = Annotated[Path, _place("Folder to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str | None, typer.Option(help="torch device such as cpu or cuda; the best one by default.")]
Targets = Annotated[list[str], typer.Option("--target", help="Phrase to cut out of captions; repeat for more.")]
BaseText = Annotated[str, typer.Option("--base-text", help="For pictures whose caption says nothing but the target.")]


def main() -> None:
    """Run the command line; whatever goes wrong becomes one line on standard error and a status."""
    if sys.stdout.errors == "strict":  # a file's name may hold bytes, or letters, that the terminal has no way to show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app(prog_name=PROGRAM, standalone_mode=False)  # else typer tells usage in four lines
    except TyperException as error:
        _fail(_usage(error), 2)
    except (Cancelled, TrainingError) as error:
        _fail(error, 1)
    except SpfError as error:
        _fail(error, 2)
    except OSError as error:
        _fail(f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error}); check the path, its "
              "permissions and the free space.", 2 if error.errno == errno.ENAMETOOLONG else 1)
    if status == INTERRUPTED:
        _fail("stopped.", INTERRUPTED)
    raise SystemExit(status)


def _usage(error: TyperException) -> str:
    """What is wrong with the arguments, in one line. A group without a verb shows its help instead."""
    context = getattr(error, "ctx", None)
    text, command = error.format_message().replace("Value error, ", ""), context.command_path if context else PROGRAM
    if "\n" in text:  # not an error but the help
        print(text, file=sys.stderr)
        raise SystemExit(2)
    return f"{text[:1].lower()}{text[1:].rstrip('.')}; see '{command} --help'"


def _fail(message: object, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


@app.command()
def generate(
    out: Annotated[Path, _place("Folder for original.png customized.png sfcm.png maps.npz result.json.")],
    base: Annotated[str, typer.Option(help="Base text: the portrait as the original model draws it.")],
    target: Annotated[list[str], typer.Option(help="What should change; repeat for more.")] = [],  # noqa: B006
    model: Annotated[str, typer.Option(help="Model preset of configs/models.")] = "pocket",
    customization: Annotated[list[str], typer.Option(help="Name, or name:weight; repeat to mix several.")] = [],  # noqa: B006
    negative_prompt: Annotated[str, typer.Option()] = "",
    seed: Annotated[str, typer.Option()] = "0",
    count: Annotated[str, typer.Option(help="Pairs from so many seeds in a row, each in its own folder OUT/SEED.")] = "1",
    scheduler: Annotated[str | None, typer.Option(help="ddim, dpmpp_2m, euler or unipc; the model's own if left out.")] = None,
    height: Annotated[str | None, typer.Option(help="In pixels; the model's resolution if left out.")] = None,
    width: Annotated[str | None, typer.Option(help="In pixels; the model's resolution if left out.")] = None,
    steps: Annotated[str | None, typer.Option(help="Denoising steps; the model's default if left out.")] = None,
    guidance_scale: Annotated[str | None, typer.Option(help="The model's default if left out.")] = None,
    map_steps: Annotated[str, typer.Option(help="At how many steps M and the SFCM are drawn.")] = "5",
    hold: Annotated[str | None, typer.Option(help=(
        "Hold the original where this gain x SFCM is below 1, for example 2. 0 holds nothing."))] = None,
    method: Annotated[str | None, typer.Option(help="A training-free method that acts while drawing: magnet or storm.")] = None,
    assignments: Annotated[list[str], typer.Option("--set", help="key=value of the method, for example strength=0.5.")] = [],  # noqa: B006
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Draw original and customized portrait from one seed, with the SFCM."""
    from spf import config

    model = _model(model)
    preset = config.model_preset(model)
    request = config.parse(config.GenerationRequest, {
        "model": model, "customization": "+".join(customization) or None, "base_text": base, "target_texts": tuple(target),
        "negative_prompt": negative_prompt, "seed": seed, "count": count, "scheduler": scheduler,
        "height": height, "width": width,
        "num_inference_steps": preset.num_inference_steps if steps is None else steps,
        "guidance_scale": preset.guidance_scale if guidance_scale is None else guidance_scale, "map_steps": map_steps,
        "guide": _guide(method, assignments), "hold": _hold(hold)})
    from spf.generation.history import check_target, describe, write_result

    folder = check_target(out)
    _require_place("--out", folder)
    _require_customizations(request.customization, preset)
    from spf.baselines.registry import GUIDES
    from spf.generation.service import GenerationService
    from spf.jobs.beside import require_room

    service, described = GenerationService(_device(device), GUIDES, require_room), []
    for result in service.generate_all(request):
        write_result(result, folder if request.count == 1 else folder / str(result.request.seed))
        described.append(describe(result))
    _report(described[0] if request.count == 1 else {"pairs": described}, as_json,
            f"Written to {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def _hold(gain: str | None) -> dict[str, str] | None:
    """0 holds nothing, as on the page and in the API."""
    return None if gain is None or re.fullmatch(r"0+(\.0*)?", gain) else {"gain": gain}


def _require_customizations(mix: str | None, preset: ModelPreset) -> None:
    """What can be refused before torch is loaded."""
    from spf import config
    from spf.backbones import source

    for name in config.mix_weights(mix) if mix else ():
        source.customization(name, preset)


def _guide(method: str | None, assignments: list[str]) -> dict[str, Any] | None:
    from spf import config

    if method is None and assignments:
        raise InvalidInput("--set", "sets what a method does; choose one with --method")
    if method not in (None, "magnet", "storm"):
        raise InvalidInput("--method", f"'{method}' does not act while drawing; choose magnet or storm")
    settings = config.parse_assignments(assignments)
    if "name" in settings:
        raise InvalidInput("--set", "cannot choose another method; name it with --method")
    return None if method is None else {"name": method, **settings}


@app.command()
def train(
    data: Annotated[str | None, typer.Option(help="Folder of pictures and their texts; see docs/data.md.")] = None,
    target: Targets = [],  # noqa: B006
    base_text: BaseText = "",
    name: Annotated[str | None, typer.Option(help="Name of the customization to write.")] = None,
    model: Annotated[str | None, typer.Option(help="Model preset of configs/models; the preset's if left out.")] = None,
    preset: Annotated[str | None, typer.Option(help="Training preset of configs/training; quick if left out.")] = None,
    stage: Annotated[str | None, typer.Option(help="both, 1 or 2; the preset's if left out.")] = None,
    method: Annotated[str | None, typer.Option(help="spf (the default), standard, lora, adalora or tokencompose.")] = None,
    initial_customization: Annotated[str | None, typer.Option(help="What to start from; the original is the reference.")] = None,
    assignments: Annotated[list[str], typer.Option("--set", help="key=value, for example stage2.learning_rate=1e-4.")] = [],  # noqa: B006
    report_to: Annotated[str | None, typer.Option(help="none or tensorboard; metrics.jsonl is always written.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with this run from its newest checkpoint.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Queue the run and return; see 'jobs'.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings, steps, time and memory; write nothing.")] = False,
    run: Annotated[Path | None, _place("Carry out the run prepared in this folder.", hidden=True)] = None,
    once: Annotated[str | None, typer.Option(help="Part of a device to wait for; an equal run counts.", hidden=True)] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Teach a phrase from a folder of pictures: stage 1, then stage 2. On many devices: torchrun -m spf train ..."""
    from spf import config
    from spf.training.run_folder import RunFolder

    _refuse_beside_resume(resume, dry_run, preset)
    chosen = _device(device)
    given = {"model": _model(model), "data": _absolute(data), "target_texts": tuple(target) or None, "stage": stage,
             "base_text": base_text or None, "name": name, "recipe": method, "report_to": report_to,
             "initial_customization": initial_customization}
    given = {key: value for key, value in given.items() if value is not None} | config.parse_assignments(assignments)
    if run is not None:
        from spf.jobs.foreground import train_for_worker

        folder, written = RunFolder(run), train_for_worker(RunFolder(run), chosen)
    elif resume is not None and detach:
        return _resume(resume, given, as_json)
    elif resume is not None:
        from spf.jobs import foreground, store

        folder, written = foreground.train_here(lambda: store.resume(Path(resume).name, given, launch=False), chosen)
    else:
        settings = config.train_config(preset or "quick", {"data": None, "name": None} | given)
        if dry_run:
            return _dry_run(settings, chosen, as_json)
        from spf.jobs import store

        if detach:
            folder = store.start(settings)
            return _report({"run": folder.id}, as_json, f"Run {folder.id} is queued; see 'python -m spf jobs'.")
        from spf.jobs import foreground
        from spf.jobs.once import train_once

        folder, written = (foreground.train_here(lambda: store.prepare(settings), chosen) if once is None
                           else train_once(settings, chosen, once))
    from spf.training.devices import process_rank

    if process_rank() > 0:
        return
    _report({"customization": written.card.model_dump(), "folder": str(written.folder), "run": folder.id}, as_json,
            f"Customization '{written.card.name}' is written to {written.folder}.")


def _refuse_beside_resume(resume: str | None, dry_run: bool, preset: str | None) -> None:
    """What would be passed over without a word."""
    for option in ["--dry-run"] * dry_run + ["--preset"] * (preset is not None):
        if resume is not None:
            raise InvalidInput(option, "does not go with --resume, which takes up the settings of the run; leave it out")


def _dry_run(settings: Any, device: Any, as_json: bool) -> None:
    from dataclasses import asdict

    import yaml

    from spf.baselines.registry import training_stages
    from spf.training.estimate import estimate, in_words

    found = estimate(settings, device, training_stages)
    values = settings.model_dump(mode="json")
    _report({"config": values, "estimate": asdict(found) | {"seconds": found.seconds}}, as_json,
            f"{yaml.safe_dump(values, sort_keys=False)}---\n{in_words(found)}")


@app.command(hidden=True)
def work(run: Folder) -> None:
    """Look after a queued run: wait for the device, train in a child process, record the end."""
    from spf.jobs.worker import work as look_after
    from spf.training.run_folder import RunFolder

    ended = look_after(RunFolder(run))
    raise SystemExit(0 if ended.state in ("completed", "paused") else 1)


@jobs_app.callback()
def jobs(context: typer.Context, as_json: Json = False) -> None:
    """Training runs, newest first, with their state; 'jobs pause RUN', 'jobs save RUN', 'jobs sample RUN', 'jobs log RUN'."""
    if context.invoked_subcommand is not None:
        return
    from spf.jobs import store

    rows = [_job(store, folder) for folder in store.runs()]
    lines = [f"{row['run']}  {row['state']}  {row['step']}/{row['total_steps']}  {row['message']}".rstrip() for row in rows]
    _report({"jobs": rows}, as_json, "\n".join(lines) or "No runs yet.")


def _job(store: Any, folder: Any) -> dict[str, Any]:
    from spf.jobs import queue

    status, row = store.status(folder), queue.job(folder.id)
    return {"run": folder.id, **status.model_dump(exclude={"pid", "pid_created"}), "exit_code": row.exit_code if row else None}


def _ask(what: str, told: str, run: str) -> None:
    from spf.jobs import store

    store.ask(run, what)
    print(told.format(run=run))


@jobs_app.command("pause")
def jobs_pause(run: str) -> None:
    """Save a checkpoint and stop; 'resume RUN' goes on."""
    _ask("pause", "Run {run} saves where it stands before its next step, and stops.", run)


@jobs_app.command("save")
def jobs_save(run: str) -> None:
    """Save a checkpoint now."""
    _ask("save", "Run {run} saves a checkpoint before its next step.", run)


@jobs_app.command("sample")
def jobs_sample(run: str) -> None:
    """Draw a preview now."""
    _ask("sample", "Run {run} draws a preview before its next step.", run)


@jobs_app.command("log")
def jobs_log(run: str, lines: Annotated[int, typer.Option(min=1)] = 40) -> None:
    """The last lines that a run printed."""
    from spf.jobs import store

    print(store.run(run).log_tail(lines))


@app.command()
def cancel(run: str) -> None:
    """Stop a run without saving; its earlier checkpoints stay."""
    _ask("cancel", "Run {run} stops.", run)


@app.command()
def resume(
    run: str,
    assignments: Annotated[list[str], typer.Option("--set", help="What may change on the way, such as a learning rate.")] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Queue a run that ended early once more; it goes on from its newest checkpoint."""
    from spf import config

    _resume(run, config.parse_assignments(assignments), as_json)


def _resume(run: str, given: dict[str, Any], as_json: bool) -> None:
    from spf.jobs import store

    folder = store.resume(Path(run).name, given)
    _report({"run": folder.id}, as_json, f"Run {folder.id} is queued again; see 'python -m spf jobs'.")


@dataset.command("check")
def dataset_check(
    folder: Folder,
    target: Targets = [],  # noqa: B006
    base_text: BaseText = "",
    model: Annotated[str, typer.Option(help="Model whose text encoder must read the texts; '' asks none.")] = "pocket",
    as_json: Json = False,
) -> None:
    """One report on a picture folder that names every problem; exit status 2 if it cannot be trained on."""
    from spf import config
    from spf.data.check import check_folder

    preset = config.model_preset(_model(model)) if model else None
    report = check_folder(folder, reading=_reading(target, base_text), window=_window(preset) if preset else None,
                          resolution=preset.resolution if preset else None)
    _report(report.to_dict(), as_json, report.to_text())
    if not report.ok:
        raise SystemExit(2)


def _window(preset: Any) -> Any:
    """The model's `caption_window`, whose libraries are loaded when there is a first text to read."""
    @cache
    def complaint():
        from spf.backbones.window import caption_window

        return caption_window(preset)

    return lambda base_text, target_text: complaint()(base_text, target_text)


@dataset.command("filter")
def dataset_filter(
    folder: Folder,
    out: Out,
    keep: Annotated[float, typer.Option(help="Share with the highest image-text score; the paper keeps 0.3.")] = 0.3,
    clip: Annotated[str, typer.Option(help="open_clip folder, or model:pretrained; the one of 'pocket' if left out.")] = "",
    minimum: Annotated[list[str], typer.Option(help="hps=0.25, mps=8 or image_reward=0: also at least this score.")] = [],  # noqa: B006
    weights: Annotated[Path | None, _place("Folder with the published files of these judges.")] = None,
    target: Targets = [],  # noqa: B006
    base_text: BaseText = "",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Keep the pictures that show best what their texts say: the paper's recipe for a training set."""
    from spf.data.writer import records_to_copy

    if not 0 < keep <= 1:
        raise InvalidInput("--keep", f"must be more than 0 and at most 1 (got {keep}); 0.3 keeps the best 30 %")
    if bad := [text for text in minimum if not re.fullmatch(r"\w+=[+-]?(\d+\.?\d*|\.\d+)", text)]:
        raise InvalidInput("--minimum", f"'{bad[0]}' is not of the form name=number, for example hps=0.25")
    records = records_to_copy(folder, out, _reading(target, base_text))
    from spf import config
    from spf.clip import Clip
    from spf.metrics.selection import clip_scorer, filter_records, preference_scorer

    chosen = _device(device)
    limits = {name: float(value) for name, value in (text.split("=") for text in minimum)}
    judges = {preference_scorer(name, weights or config.home() / "metrics", chosen): value for name, value in limits.items()}
    judge = clip_scorer(Clip.load(clip or config.model_preset("pocket").clip).to(chosen))
    done = filter_records(records, out, keep, judge, judges)
    _report(done, as_json, f"{done['kept']} of {done['pictures']} pictures are written to {out}.")


@dataset.command("caption")
def dataset_caption(
    folder: Folder,
    captioner: Annotated[Path, _place("transformers folder of BLIP or Florence-2, in safetensors.")],
    target: Annotated[list[str], typer.Option(help="Phrase to add to a caption that does not say it; repeat for more.")] = [],  # noqa: B006
    replace: Annotated[bool, typer.Option("--replace", help="Also write captions anew that are there.")] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write a caption file beside every picture that has none, by a captioning model on this machine."""
    from spf.data.captioning import caption_folder, pictures_of

    _require_place("FOLDER", (folder / pictures_of(folder)[0]).with_suffix(".txt"))
    from spf.backbones.captioner import Captioner

    done = caption_folder(folder, Captioner(captioner, _device(device)), target, replace)
    _report(done, as_json, f"{done['written']} of {done['pictures']} pictures got a caption; read them once, then "
                           f"'python -m spf dataset check {folder} --target ...'.")


@dataset.command("crop")
def dataset_crop(
    folder: Folder,
    out: Out,
    about: Annotated[str, typer.Option(help="face, center, or portrait, which leaves more below than above.")] = "face",
    preview: Annotated[Path | None, _place("PNG that shows the pictures with their squares drawn in.")] = None,
    target: Targets = [],  # noqa: B006
    base_text: BaseText = "",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Cut the pictures to squares: about the face where the recogniser finds one, else about the middle."""
    from spf.data.writer import records_to_copy

    if about not in ("face", "center", "portrait"):
        raise InvalidInput("--about", f"'{about}' is not known; choose face, center or portrait")
    if preview is not None:
        _require_file("--preview", preview)
        if inside := [place for place in (folder, out) if preview.resolve().is_relative_to(place.resolve())]:
            raise InvalidInput("--preview", f"{preview} lies in {inside[0]}, where it would be one more picture of the set; "
                                            "choose a file elsewhere")
    records = records_to_copy(folder, out, _reading(target, base_text))
    from spf.data.cropping import crop_records, face_finder

    find_face = None
    if about == "face":
        from spf.pocket.recogniser import Recogniser

        find_face = face_finder(Recogniser.from_folder(device=_device(device)))
    done = crop_records(records, out, "portrait" if about == "face" else about, find_face, preview)
    _report(done, as_json, f"{done['pictures']} pictures are written to {out}: {done['face']} cut about the face, "
                           f"{done['middle']} about the middle.")


@dataset.command("generate")
def dataset_generate(
    base_texts: Annotated[Path, _place("Text file, one base text per line.")],
    target: Annotated[str, typer.Option(help="Target phrase of every picture.")],
    out: Out,
    model: Annotated[str, typer.Option(help="Model preset, or where a model's files are.")] = "pocket",
    customization: Annotated[list[str], typer.Option(help="Name, or name:weight; repeat to mix several.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Of the first picture; each further one takes the next.")] = 0,
    device: Device = None,
) -> None:
    """Pictures that a model draws of a target, as a training set for another."""
    from spf import config

    preset = config.model_preset(_model(model))
    settings = {"model": preset.name, "customization": "+".join(customization) or None,
                "num_inference_steps": preset.num_inference_steps, "guidance_scale": preset.guidance_scale}
    request = config.parse(config.GenerationRequest, {  # one of them, before anything is loaded
        "base_text": preset.base_text, "target_texts": (target,), "seed": seed, **settings})
    _require_customizations(request.customization, preset)
    if not base_texts.is_file():
        raise InvalidInput("--base-texts", f"{base_texts} is no file; name a text file")
    from spf.data.writer import require_free

    require_free(out)
    from spf.generation.service import GenerationService
    from spf.generation.source import draw_folder, read_base_texts, requests_for

    requests = requests_for(read_base_texts(base_texts), target, seed, **settings)
    print(f"{draw_folder(GenerationService(_device(device)), requests, out)} pictures are written to {out}.")


@dataset.command("render")
def dataset_render(
    attribute: Annotated[str, typer.Option(help="Held-out attribute, for example winter-hat; or all.")],
    out: Out,
    count: Annotated[int, typer.Option()] = 64,
    seed: Annotated[int, typer.Option()] = 0,
    masks: Annotated[bool, typer.Option("--masks", help="Also write where each target is, which tokencompose needs.")] = False,
    together: Annotated[int, typer.Option(help="Up to so many held-out attributes in one picture, from 1 to 4.")] = 1,
) -> None:
    """Pictures of the embedded world that show a held-out attribute. Same arguments, same bytes."""
    from spf.pocket.dataset import render_folder

    render_folder(attribute, count, out, seed, masks=masks, together=together)
    print(f"{count} pictures of '{attribute}' are written to {out}.")


@app.command()
def pretrain(
    words: Annotated[list[str], typer.Argument(metavar="[score] PRESET", help="'score' measures the committed weights.")],
    minutes: Annotated[float, typer.Option(help="Stop after this long; the next call goes on.")] = 1e9,
    part: Annotated[list[str], typer.Option(help="Train only this part; repeat for more.")] = [],  # noqa: B006
    adopt: Annotated[bool, typer.Option(
        "--adopt", help="Go on from assets/PRESET where nothing of it was trained under SPF_HOME yet.")] = False,
    captions: Annotated[int | None, typer.Option(
        help="score: how many held-out captions to draw. score.json is written for all 500, which are the default.")] = None,
    sheet: Annotated[Path | None, _place("score: PNG of 10x10 drawn pictures beside rendered ones.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train an embedded model or the recogniser from nothing, or measure one."""
    if len(words) == 2 and words[0] == "score":
        _score(words[1], captions, sheet, device, as_json)
    elif len(words) == 1:
        if not minutes > 0:
            raise InvalidInput("--minutes", f"must be more than 0 (got {minutes:g})")
        from spf import config

        _require_place("SPF_HOME", config.home() / "pretrain")
        from spf.pocket.presets import pretrain as run_pretraining

        done = run_pretraining(words[0], tuple(part), minutes, _device(device), adopt)
        print("All parts are trained." if done else "Time is up; the same command goes on from here.")
    else:
        raise InvalidInput("pretrain", "takes a preset, or 'score' and a preset, for example 'pretrain pocket'")


def _score(preset: str, captions: int | None, sheet: Path | None, device: str | None, as_json: bool) -> None:
    from spf import config

    if sheet is not None:
        _require_file("--sheet", sheet)
    if preset != "recogniser":
        config.model_preset(preset)  # an unknown one is refused before anything is loaded
    from spf.pocket.score import FULL, as_text, score

    report = score(preset, _device(device), FULL if captions is None else captions, sheet)
    _report(report, as_json, as_text(report))
    if report.get("captions", FULL) != FULL:  # the recogniser has none
        print(f"score.json is left as it is: a score of {FULL} captions is kept, and this is of {report['captions']}.",
              file=sys.stderr)


@app.command()
def evaluate(
    config_file: Annotated[Path, typer.Argument(
        parser=_path, metavar="CONFIG", help="For example configs/evaluation/smoke.yaml.")],
    assignments: Annotated[list[str], typer.Option("--set", help="key=value, for example triples=50.")] = [],  # noqa: B006
    shard: Annotated[str | None, typer.Option(help="i/n: only the targets of this part; the last to finish writes.")] = None,
    chosen_rows: Annotated[bool, typer.Option("--chosen", help="Print each table's best row of a result that is there.")] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Put a test set through all methods and metrics; write tables and figures. Goes on where it stopped."""
    from spf import config

    settings = config.evaluation_config(config_file, config.parse_assignments(assignments))
    if chosen_rows:
        return _chosen(config.home() / "evaluation" / settings.name, as_json)
    if settings.preset not in config.training_presets():
        raise InvalidInput("preset", f"'{settings.preset}' is not known; choose one of {', '.join(config.training_presets())}")
    _require_place("SPF_HOME", config.home() / "evaluation")
    from spf.evaluation.shards import device_name, lease_of, shard_of, share_processor
    from spf.training.devices import refuse_lonely_process

    part = shard_of(shard)
    if shard is None:
        refuse_lonely_process(os.environ)
    chosen = _device(device_name(device))
    share_processor(part[1])
    from spf.evaluation.publish import write
    from spf.evaluation.run import Evaluation
    from spf.evaluation.trained import train_by_command

    lease = lease_of(chosen, part)
    evaluation = Evaluation(settings, chosen, lambda values, library: train_by_command(values, library, str(chosen), lease))
    complete = evaluation.run(part)
    values = {"folder": str(evaluation.folder), "complete": complete, "table": str(write(evaluation)) if complete else None}
    text = f"Tables and figures are written: {values['table']}" if complete else "This shard is done; others are not yet."
    _report(values, as_json, text)


def _chosen(folder: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from spf.evaluation import choice

    report = choice.read(folder)
    _report({table: asdict(row) for table, row in choice.choose(report).items()}, as_json, choice.as_text(report))


@app.command("export")
def export_customization(
    name: Annotated[str, typer.Argument(help="Name of a customization.")],
    out: Annotated[Path, _place("Folder for diffusers, else a .safetensors file.")],
    format_: Annotated[str, typer.Option("--format", help="diffusers, single-file, delta or lora.")] = "diffusers",
    rank: Annotated[int, typer.Option(help="Of a LoRA.")] = 16,
    lora_format: Annotated[str, typer.Option(help="kohya or diffusers.")] = "kohya",
    dtype: Annotated[str | None, typer.Option(help="fp32, fp16 or bf16; delta and lora: fp16, else the model's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Take a customization to another program: a whole model, the change alone, or a LoRA."""
    from spf import library
    from spf.export.asked import Export

    asked = Export(name, format_, out, rank, lora_format, dtype, force)
    library.named(name)
    from spf.export.outgoing import export

    report = export(asked)
    _report(report, as_json, "\n".join(f"{key}: {value}" for key, value in report.items()))


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(parser=_path, help="A customization's folder, a zip of it, or an exported delta.")],
    name: Annotated[str | None, typer.Option(help="What to call it; as it calls itself if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a customization of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Bring in a customization that was made elsewhere, if it belongs to a model that is here."""
    from spf.export.incoming import import_customization

    found = import_customization(path, name, force)
    _report({"customization": found.card.model_dump(), "folder": str(found.folder)}, as_json,
            f"Customization '{found.card.name}' for model '{found.card.model}' is in {found.folder}.")


@app.command()
def download(model: Annotated[str, typer.Argument(help="Model preset or hub id; 'doctor' says how much there is.")]) -> None:
    """Fetch a published model, and the CLIP that goes with it, from the hub. Nothing else in this program does."""
    from spf import config
    from spf.backbones import source

    known = model in config.model_presets() or not source.is_hub_id(model)
    preset = config.model_preset(model) if known else source.download_hub_id(model)
    print(f"Model '{preset.name}' is in {source.download(preset)}.")
    from spf import clip

    clip.download(preset.clip)


@app.command()
def doctor(
    plan: Annotated[str | None, typer.Option(
        metavar="MODEL", help="Predict the peak memory of training this model: a preset, or where a model's files are.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Pictures per step, for --plan.")] = 2,
    resolution: Annotated[int | None, typer.Option(
        min=64, max=2048, help="Side of the pictures, for --plan; the model's if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Versions, device, memory, models found, what is missing and how to get it; or what training would need."""
    if plan is not None:
        from spf import config
        from spf.backbones import source

        preset = source.described(plan) if source.names_place(plan) else config.model_preset(plan)
        from spf.plan import as_text
        from spf.plan import plan as predict

        predicted = predict(preset, batch, resolution)
        return _report(predicted, as_json, as_text(predicted))
    from spf.doctor import as_text, diagnose

    report = diagnose()
    _report(report, as_json, as_text(report))
    if report["problems"]:
        raise SystemExit(1)


def _model(text: str | None) -> str | None:
    """Name of a preset. The path of a folder or file, or a hub id, first becomes a model of this user's own."""
    from spf.backbones import source

    return source.register_model(text).name if text is not None and source.names_place(text) else text


def _require_place(option: str, path: Path) -> None:
    """Raises InvalidInput if nothing can be written at `path`; a verb asks before it loads anything."""
    from spf.files import probe

    try:
        probe(path)
    except OSError as error:
        raise InvalidInput(option, f"{path} cannot be written ({error.strerror or error}); choose another place") from None


def _require_file(option: str, path: Path) -> None:
    """Raises InvalidInput if no file can be written at `path`."""
    _require_place(option, path)
    if path.is_dir():
        raise InvalidInput(option, f"{path} is a folder; name a file")


def _reading(target: list[str], base_text: str):
    from spf.data.captions import Reading

    return Reading(tuple(target), " ".join(base_text.split()))


def _device(name: str | None):
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()  # the device 'meta' can hold it, but not tell it
    except (RuntimeError, AssertionError, ValueError):
        raise InvalidInput("--device", f"'{name}' cannot be used here; leave it out, or use cpu") from None
    return device


def _absolute(folder: str | None) -> str | None:
    return str(Path(folder).resolve()) if folder else folder


def _report(values: dict[str, Any], as_json: bool, text: str) -> None:
    print(json.dumps(values, indent=2, ensure_ascii=False) if as_json else text)
