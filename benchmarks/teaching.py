"""Teaches one phrase from rendered pictures and measures what came of it: `python benchmarks/teaching.py --attribute winter-hat`.

Over 20 held-out base captions x 2 seeds, after stage 1 alone, after both stages, and after both with the original held as the
app does: how often the target is there (the embedded CLIP scores base + target above base), and the mean absolute pixel
difference to the original outside the region where a renderer that knows the truth draws the target. Prints one JSON object;
`--out` also writes it and a contact sheet.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from PIL import Image  # noqa: E402

import spf  # noqa: E402, F401
from spf import config  # noqa: E402
from spf.config import GenerationRequest, HoldConfig, TrainConfig  # noqa: E402
from spf.generation.service import GenerationService  # noqa: E402
from spf.jobs.store import runs_root  # noqa: E402
from spf.metrics.pixels import mean_absolute_difference  # noqa: E402
from spf.pocket import captions, renderer, world  # noqa: E402
from spf.pocket.dataset import render_folder  # noqa: E402
from spf.pocket.pictures import portrait_at  # noqa: E402
from spf.training.run import Run  # noqa: E402
from spf.training.run_folder import RunFolder  # noqa: E402

CAPTIONS, SEEDS = 20, (11, 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--attribute", default="winter-hat", choices=list(world.TARGETS))
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--name", help="name of the customization; the attribute by default")
    parser.add_argument("--set", action="append", default=[], dest="assignments", help="key=value of the training preset")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    name = arguments.name or arguments.attribute
    report, sheet = measure(arguments.model, arguments.attribute, arguments.pictures, name, arguments.assignments)
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        sheet.save(arguments.out / f"{name}.png")


def measure(model: str, attribute: str, pictures: int, name: str, assignments: list[str]) -> tuple[dict, Image.Image]:
    with tempfile.TemporaryDirectory() as folder:
        data = render_folder(attribute, pictures, Path(folder) / "pictures", seed=1)
        overrides = {"model": model, "data": str(data)} | config.parse_assignments(assignments)
        first = config.train_config("quick", overrides | {"name": f"{name}-stage1", "stage": "1"})
        second = config.train_config("quick", overrides | {
            "name": name, "stage": "2", "initial_customization": f"{name}-stage1"})
        seconds = {"stage1": _train(first), "stage2": _train(second)}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    requests = _requests(model, attribute)
    service = GenerationService()
    rows = {row: _evaluate(service, requests, attribute, customization, hold) for row, customization, hold in (
        ("stage1", f"{name}-stage1", None), ("both", name, None), ("held", name, HoldConfig()))}
    report = {
        "attribute": attribute, "pictures": pictures, "threads": torch.get_num_threads(), "training_seconds": seconds,
        "peak_memory_gb": round(memory, 2), "pairs": len(requests),
        **{row: summary for row, (summary, _) in rows.items()},
    }
    return report, _contact_sheet([results for _, results in rows.values()])


def _train(settings: TrainConfig) -> float:
    started = time.perf_counter()
    Run(settings, RunFolder.create(runs_root(), settings), torch.device("cpu")).execute()
    return round(time.perf_counter() - started, 1)


def _requests(model: str, attribute: str) -> list[GenerationRequest]:
    preset, requests = config.model_preset(model), []
    for index in range(CAPTIONS):
        rng = random.Random(f"teaching/{index}")
        base = captions.base_caption(portrait_at("teaching", index, 0.0), rng)
        requests += [GenerationRequest(
            model=model, base_text=base, target_texts=(world.TARGETS[attribute].phrase,), seed=seed, map_steps=0,
            num_inference_steps=preset.num_inference_steps, guidance_scale=preset.guidance_scale) for seed in SEEDS]
    return requests


def _evaluate(service: GenerationService, requests: list[GenerationRequest], attribute: str, customization: str,
              hold: HoldConfig | None):
    outside = ~renderer.target_region(attribute)
    update = {"customization": customization, "hold": hold}
    results = [service.generate(request.model_copy(update=update)) for request in requests]
    present = sum(result.metrics["clip_target_margin"] > 0 for result in results)
    differences = [mean_absolute_difference(result.original, result.customized, outside) for result in results]
    whole = [mean_absolute_difference(result.original, result.customized) for result in results]
    return {
        "target_present": round(present / len(results), 3),
        "difference_outside_target": round(sum(differences) / len(differences), 4),
        "difference_everywhere": round(sum(whole) / len(whole), 4),
    }, results


def _contact_sheet(rows: list[list], count: int = 12) -> Image.Image:
    """One column per request: original, after stage 1, after both stages, after both with the original held."""
    size = rows[0][0].original.width
    sheet = Image.new("RGB", (count * size, (1 + len(rows)) * size))
    for column, results in enumerate(list(zip(*rows, strict=True))[:count]):
        for row, picture in enumerate([results[0].original, *(result.customized for result in results)]):
            sheet.paste(picture, (column * size, row * size))
    return sheet


if __name__ == "__main__":
    main()
