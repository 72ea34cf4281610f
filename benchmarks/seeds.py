"""Times several seeds drawn in one batch against the same seeds one by one: `python benchmarks/seeds.py [--counts 2 4 8]`.

Both take turns in one process, the originals of earlier turns forgotten. Reported are processor seconds (this process has
one thread, and the machine may be busy), the ratio of each turn, and how far the pictures of both ways differ, of 255 levels.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import spf  # noqa: E402, F401, I001
import numpy as np  # noqa: E402
import torch  # noqa: E402

from spf.config import GenerationRequest  # noqa: E402
from spf.generation.request import GenerationResult  # noqa: E402
from spf.generation.service import GenerationService  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--customization", default="starter")
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--map-steps", type=int, default=0)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    service = GenerationService("cpu")
    preset = service.load(asked.model)
    request = GenerationRequest(
        model=asked.model, customization=asked.customization or None, base_text=preset.base_text,
        target_texts=("a winter hat",), num_inference_steps=preset.num_inference_steps,
        guidance_scale=preset.guidance_scale, map_steps=asked.map_steps)
    service.generate(request)
    print(json.dumps({"model": asked.model, "steps": request.num_inference_steps, "map_steps": asked.map_steps, "counts": {
        count: turns(service, request.model_copy(update={"count": count}), asked.turns) for count in asked.counts}}, indent=2))


def turns(service: GenerationService, request: GenerationRequest, count: int) -> dict:
    """Both ways in turn, each turn with seeds of its own."""
    alone, together, differences = [], [], []
    for turn in range(count):
        asked = request.model_copy(update={"seed": 1000 * (turn + 1)})
        seconds, singles = timed(service, lambda asked=asked: [service.generate(one) for one in asked.one_by_one()])
        alone.append(seconds)
        seconds, batch = timed(service, lambda asked=asked: list(service.generate_all(asked)))
        together.append(seconds)
        differences.append(max(furthest(one, other) for one, other in zip(singles, batch, strict=True)))
    ratios = sorted(one / other for one, other in zip(alone, together, strict=True))
    return {"one_by_one_seconds": round(statistics.median(alone), 3), "batch_seconds": round(statistics.median(together), 3),
            "times_faster": [round(value, 3) for value in (ratios[0], statistics.median(ratios), ratios[-1])],
            "levels_apart": max(differences)}


def timed(service: GenerationService, work) -> tuple[float, list[GenerationResult]]:
    service.forget_originals()
    started = time.process_time()
    results = work()
    return time.process_time() - started, results


def furthest(one: GenerationResult, other: GenerationResult) -> int:
    """The largest difference of a pixel of either picture, of 255 levels."""
    return max(int(np.abs(np.asarray(getattr(one, name), int) - np.asarray(getattr(other, name), int)).max())
               for name in ("original", "customized"))


if __name__ == "__main__":
    main()
