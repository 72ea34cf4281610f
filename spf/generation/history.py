"""Results on disk: a pair with its maps in one folder, and PNGs that carry the settings they were made with."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import spf
from spf.config import GenerationRequest, saved_request
from spf.data.pictures import refuse_huge
from spf.errors import InvalidInput, SpfError
from spf.generation.request import GenerationResult, StepMaps
from spf.method.phrases import Emphasis, Phrase, Prompt
from spf.metrics.pixels import resized_map

CHUNK = "spf"  # our own JSON, which restores the form
INFOTEXT = "parameters"  # the text that other tools read
_FILES = ("original.png", "customized.png", "sfcm.png", "maps.npz", "result.json")
_SAMPLERS = {"ddim": "DDIM", "dpmpp_2m": "DPM++ 2M", "euler": "Euler", "unipc": "UniPC"}  # as A1111 calls them


def save_result(result: GenerationResult, root: Path) -> Path:
    """Write a result into a new folder root/<date>/<time>-<seed>; the folder appears complete or not at all."""
    day = root / time.strftime("%Y-%m-%d")
    name, number = f"{time.strftime('%H%M%S')}-{result.request.seed}", 0
    while (target := day / (f"{name}-{number}" if number else name)).exists():
        number += 1
    return write_result(result, target)


def write_result(result: GenerationResult, target: Path) -> Path:
    """Write `original.png customized.png sfcm.png maps.npz result.json` as the folder `target`, replacing those files.

    Other files in it stay. Raises InvalidInput naming the folder if it cannot be written.
    """
    target = check_target(target)
    staged = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        _write_files(result, staged)
        _move(staged, target)
    except OSError as error:
        raise InvalidInput("out", f"{target} cannot be written ({error.strerror or error}); choose another folder") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def check_target(target: Path) -> Path:
    """`target` made absolute. Raises InvalidInput if it is something else than a folder."""
    target = Path(os.path.abspath(target))
    if os.path.lexists(target) and not target.is_dir():
        raise InvalidInput("out", f"{target} is a file; choose a folder")
    return target


def _move(staged: Path, target: Path) -> None:
    """A new folder appears whole; in one that exists only our own files change."""
    if not target.exists():
        os.replace(staged, target)
        return
    for name in _FILES:
        if (staged / name).exists():
            os.replace(staged / name, target / name)
        else:
            (target / name).unlink(missing_ok=True)  # maps of an earlier result


def _write_files(result: GenerationResult, folder: Path) -> None:
    info = _png_info(result)
    result.original.save(folder / "original.png", pnginfo=info)
    result.customized.save(folder / "customized.png", pnginfo=info)
    if result.maps:
        _save_maps(result, folder)
    (folder / "result.json").write_text(json.dumps(describe(result), indent=2, ensure_ascii=False), encoding="utf-8")


def describe(result: GenerationResult) -> dict[str, Any]:
    """`result.json`: every setting, the phrases with their character spans, timings and metrics of the pair."""
    prompt = result.prompt
    return {
        "spf_version": spf.__version__,
        "request": result.request.model_dump(mode="json"),
        "prompt": prompt.text,
        "base_text": prompt.base.text,
        "phrases": [{"text": p.text, "start": p.start, "end": p.end, "gamma": round(float(gamma), 4)}
                    for p, gamma in zip(prompt.phrases, result.gamma, strict=True)],
        "targets": [{"text": p.text, "start": p.start, "end": p.end} for p in prompt.targets],
        "emphasis": [{"start": e.start, "end": e.end, "weight": e.weight} for e in prompt.emphasis],
        "scheduler": result.scheduler,
        "map_timesteps": [maps.timestep for maps in result.maps],
        "seconds": result.seconds,
        "metrics": result.metrics,
    }


def read_result(folder: Path) -> GenerationResult:
    """A result as `write_result` left it. Raises InvalidInput naming the folder if a file is missing or damaged."""
    try:
        values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        request = saved_request(values["request"])
        phrases, targets = ([Phrase(one["text"], one["start"], one["end"]) for one in values[name]]
                            for name in ("phrases", "targets"))
        prompt = Prompt(values["prompt"], Phrase(values["base_text"], 0, len(values["base_text"])),
                        tuple(targets), tuple(phrases), tuple(Emphasis(**one) for one in values.get("emphasis", ())))
        gamma = np.array([one["gamma"] for one in values["phrases"]])
        pictures = [_read_picture(folder / f"{name}.png") for name in ("original", "customized")]
        return GenerationResult(
            request, *pictures, prompt, gamma, _read_maps(folder), values["metrics"], values["seconds"],
            values.get("scheduler", "ddim"))  # before there was a choice, it was that one
    except (OSError, ValueError, KeyError, TypeError, SpfError, zipfile.BadZipFile) as error:
        raise InvalidInput("result", f"{folder} is missing or damaged ({error}); generate it again") from None


def _read_picture(path: Path) -> Image.Image:
    with Image.open(path, formats=["PNG"]) as image:
        refuse_huge(image.size, path.name)
        return image.convert("RGB")


def _read_maps(folder: Path) -> list[StepMaps]:
    if not (folder / "maps.npz").exists():
        return []
    with np.load(folder / "maps.npz") as data:
        names = ("steps", "timesteps", "soft_map", "sfcm", "phrase_maps", "target_maps")
        columns = [data[name] for name in names]
        by_layer = _read_layers(data)
    return [StepMaps(int(step), int(t), *arrays, **by_layer(index))
            for index, (step, t, *arrays) in enumerate(zip(*columns, strict=True))]


def _read_layers(data: Any) -> Callable[[int], dict[str, Any]]:
    """What an opened maps.npz says of a step beyond the maps that every version wrote."""
    if "layer_maps" not in data:
        return lambda index: {}
    original, maps = (data[name].astype(np.float32) for name in ("original_maps", "layer_maps"))
    names = tuple(map(str, data["layer_groups"]))
    return lambda index: {"original_maps": original[index], "layer_groups": names, "layer_maps": maps[index]}


def read_request(png: bytes | Path) -> GenerationRequest:
    """The request a PNG of ours was made with. Raises InvalidInput if it carries none."""
    try:
        with Image.open(io.BytesIO(png) if isinstance(png, bytes) else png, formats=["PNG"]) as image:
            refuse_huge(image.size, "picture")  # before `text` decodes it, to see what follows the pixels
            text = image.text.get(CHUNK)
    except Exception:  # noqa: BLE001 - on hostile files Pillow raises OSError, SyntaxError, zlib.error, bomb errors, ...
        raise InvalidInput("picture", "is not a PNG file that can be read") from None
    if text is None:
        raise InvalidInput("picture", "carries no SPF-Portrait settings; choose a PNG that this app has written")
    try:
        values = json.loads(text)["request"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput("picture", "carries damaged settings; choose another PNG") from None
    return saved_request(values)


def infotext(result: GenerationResult) -> str:
    """The settings in the line format that image tools share: prompt, negative prompt, then 'key: value' pairs."""
    request = result.request
    lines = [_weighted_text(result)]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    width, height = result.customized.size
    pairs = {
        "Steps": request.num_inference_steps, "Sampler": _SAMPLERS[result.scheduler], "CFG scale": request.guidance_scale,
        "Seed": request.seed, "Size": f"{width}x{height}", "Model": request.model,
        "Customization": request.customization or "none",
        **({"Hold": request.hold_gain} if request.hold else {}), "Version": f"spf-portrait {spf.__version__}",
    }
    return "\n".join([*lines, ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items())])


def _weighted_text(result: GenerationResult) -> str:
    """The prompt with its weights, '(phrase:1.3)' also for a target phrase whose own weight is not 1."""
    from spf.method.emphasis import write_emphasis  # with torch, which the page opens without

    prompt = result.prompt
    targets = [Emphasis(phrase.start, phrase.end, weight)
               for phrase, weight in zip(prompt.targets, result.request.weights, strict=True) if weight != 1]
    return write_emphasis(prompt.text, [*prompt.emphasis, *targets])


def _png_info(result: GenerationResult) -> PngInfo:
    info = PngInfo()
    info.add_itxt(INFOTEXT, infotext(result))
    info.add_itxt(CHUNK, json.dumps({"version": spf.__version__, "request": result.request.model_dump(mode="json")}))
    return info


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _save_maps(result: GenerationResult, folder: Path) -> None:
    sfcm = resized_map(result.mean_map("sfcm"), result.original.size)
    Image.fromarray((np.nan_to_num(sfcm) * 255).round().astype(np.uint8)).save(folder / "sfcm.png")
    np.savez_compressed(
        folder / "maps.npz",
        steps=np.array([maps.step for maps in result.maps]),
        timesteps=np.array([maps.timestep for maps in result.maps]),
        soft_map=np.stack([maps.soft_map for maps in result.maps]),
        sfcm=np.stack([maps.sfcm for maps in result.maps]),
        phrase_maps=np.stack([maps.phrase_maps for maps in result.maps]),
        target_maps=np.stack([maps.target_maps for maps in result.maps]),
        gamma=result.gamma, **_layers(result.maps))


def _layers(maps: list[StepMaps]) -> dict[str, np.ndarray]:
    """What is kept for looking at, in half precision; nothing where the maps came from an earlier version."""
    if not maps[0].layer_groups:
        return {}
    return {"layer_groups": np.array(maps[0].layer_groups), **{
        name: np.stack([getattr(one, name) for one in maps]).astype(np.float16) for name in ("original_maps", "layer_maps")}}
