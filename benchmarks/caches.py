"""A stage-1 step with and without the caches: `python benchmarks/caches.py`.

Both steps train the same denoiser on the same batch. The plain one loads and encodes the batch's pictures and captions, as
the training scripts without caches do at every step; the cached one takes them from `spf.training.examples.prepare`.
The two alternate, so whatever else the machine does falls on both. Pictures are rendered, at their own size and scaled up
to the size that an upload is stored with. Prints one Markdown row for each; the ratio is that of the medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

import spf  # noqa: E402, F401
from spf import config  # noqa: E402
from spf.backbones import checkpoints  # noqa: E402
from spf.clip import Clip  # noqa: E402
from spf.data.batches import Examples  # noqa: E402
from spf.data.pictures import load_picture, to_array  # noqa: E402
from spf.data.records import read_folder  # noqa: E402
from spf.data.writer import UPLOAD_SIDE, write_folder  # noqa: E402
from spf.method.phrases import join_prompt  # noqa: E402
from spf.pocket.dataset import render_folder  # noqa: E402
from spf.training.examples import prepare  # noqa: E402
from spf.training.stages import FineTuneStage, set_trainable  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    preset = config.model_preset(arguments.model)
    backbone, clip = checkpoints.load_backbone(preset), Clip.load(preset.clip)
    print("| pictures | plain step, ms | cached step, ms | plain / cached |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        small = render_folder("winter-hat", arguments.batch_size, Path(folder) / "small")
        for data in (small, _enlarged(small, Path(folder) / "large")):
            print(_row(data, backbone, clip, preset, arguments.rounds), flush=True)


def _enlarged(folder: Path, target: Path) -> Path:
    records = read_folder(folder)
    write_folder(target, ((load_picture(record.path, UPLOAD_SIDE), record.base_text, record.target_text) for record in records))
    return target


def _row(data: Path, backbone, clip: Clip, preset: config.ModelPreset, rounds: int) -> str:
    records = read_folder(data)
    examples = prepare(records, backbone, clip, preset.resolution, preset.method)

    @torch.no_grad()
    def encoded() -> Examples:
        """The batch as a trainer without caches has it: stage 1 needs latents and the full prompt, no more."""
        pixels = torch.stack([torch.from_numpy(to_array(load_picture(record.path, preset.resolution))) for record in records])
        text = backbone.encode_prompts([join_prompt(record.base_text, [record.target_text]) for record in records])
        return Examples(backbone.encode_images(pixels), text, examples.base, examples.gamma, examples.target_embedding,
                        examples.image_embedding, examples.records)

    rows = list(range(len(records)))
    step = _stepper(backbone, examples)
    plain, cached = _alternate(lambda: step(encoded()), lambda: step(examples[rows]), rounds)
    side = load_size(records[0].path)
    return (f"| {len(records)} of {side} x {side} | {_told(plain)} | {_told(cached)} "
            f"| {statistics.median(plain) / statistics.median(cached):.2f} |")


def _stepper(backbone, examples: Examples) -> Callable[[Examples], None]:
    response = backbone.fork()
    optimizer = torch.optim.AdamW(set_trainable(response, "full"), lr=1e-5, fused=True)
    stage = FineTuneStage(response, examples.full[[0]])
    generator = torch.Generator()

    def step(batch: Examples) -> None:
        losses, _ = stage.training_forward(batch, generator.manual_seed(0))
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _alternate(plain: Callable, cached: Callable, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each call after two that warm up; the order changes every round."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds + 2):
        for which in (0, 1) if index % 2 else (1, 0):
            started = time.process_time()
            (plain, cached)[which]()
            if index >= 2:
                seconds[which].append(time.process_time() - started)
    return seconds


def load_size(path: Path) -> int:
    from PIL import Image

    with Image.open(path) as image:
        return image.width


def _told(seconds: list[float]) -> str:
    """Median and the middle half."""
    low, middle, high = statistics.quantiles([1000 * value for value in seconds], n=4)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


if __name__ == "__main__":
    main()
