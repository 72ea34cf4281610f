"""Pictures of a model as a training set: one for each base text, drawn with the target phrase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from spf.config import GenerationRequest, parse
from spf.data.writer import write_folder
from spf.errors import InvalidInput
from spf.generation.service import GenerationService

MAX_TEXTS = 10_000
MAX_BYTES = 4 * 2**20


def read_base_texts(path: Path) -> list[str]:
    """One base text per line; blank lines and those that begin with '#' are left out. Raises InvalidInput."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput("--base-texts", f"{path} is larger than {MAX_BYTES // 2**20} MiB; split it")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InvalidInput("--base-texts", f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput("--base-texts", f"{path} cannot be read ({reason}); name a text file") from None
    texts = [text for line in lines if (text := line.strip()) and not text.startswith("#")]
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidInput("--base-texts", f"{path} holds {len(texts):,} texts; write 1 to {MAX_TEXTS:,}, one per line")
    return texts


def requests_for(base_texts: Sequence[str], target: str, seed: int, **settings) -> list[GenerationRequest]:
    """A request for each text, its seed one above that of the text before. Raises InvalidInput naming the bad line's number."""
    requests = []
    for index, text in enumerate(base_texts):
        try:
            requests.append(parse(GenerationRequest, {
                "base_text": text, "target_texts": (target,), "seed": seed + index, "map_steps": 0, **settings}))
        except InvalidInput as error:
            where = f"text {index + 1}: " if error.field == "base_text" else ""
            raise InvalidInput(error.field, where + str(error).removeprefix(f"{error.field}: ")) from None
    return requests


def draw_folder(service: GenerationService, requests: Sequence[GenerationRequest], out: Path) -> int:
    """Write what every request draws with its target, as a picture folder; the number of pictures.

    Raises what `GenerationService.generate` raises, DataError if `out` holds other files; then nothing is written.
    """
    return write_folder(out, (
        (service.generate(request).customized, request.base_text, request.target_texts[0])
        for request in tqdm(requests, desc="drawing", unit="picture")))
