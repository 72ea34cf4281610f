"""The Inspect tab: every map behind one result. Here the values are packed; drawing them is the script's affair."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from spf.generation.request import GenerationResult
from spf.method.phrases import Phrase
from spf.ui import markup, overlay, steps, strings, viewer
from spf.ui.session import Kept, Session, Shown
from spf.ui.wiring import QUIET, script

_MARKUP = Path(__file__).with_name("inspector.html")


def add_panel(session: gr.State, tab: gr.Tab) -> gr.HTML:
    """The tab's content, filled anew whenever the tab is opened."""
    skeleton = _MARKUP.read_text(encoding="utf-8")
    for name, text in strings.INSPECT.items():
        skeleton = skeleton.replace(f"[[{name}]]", escape(text))
    skeleton = skeleton.replace("[[legend-picture]]", markup.legend())
    inspector = gr.HTML(None, html_template=skeleton, js_on_load=script("inspector.js"),
                        apply_default_css=False, elem_id="spf-inspector")
    tab.select(look, [session], [inspector], **QUIET)
    return inspector


def look(session: Session) -> dict[str, Any] | None:
    """What the component shows of the result on show; None where there is none with maps."""
    kept = session.current
    return payload(kept) if kept is not None and kept.result.maps else None


def payload(kept: Kept) -> dict[str, Any]:
    """Everything the script needs: pictures, prompt with spans, and every map of every drawn step in 255 levels."""
    result = kept.result
    maps, layers = maps_of(result), layers_of(result)
    return {
        "title": steps.summary(result.request), "prompt": result.prompt.text, "tokens": _words(result.prompt.text),
        "picture": viewer.address(kept.picture("customized")), "grid": list(result.maps[0].sfcm.shape),
        "steps": [{"step": one.step, "t": one.timestep} for one in result.maps],
        "npz": viewer.address(kept.folder / "maps.npz") if kept.folder else None,
        "colors": _packed(overlay.colors(np.arange(256) / 255)), "messages": messages(result, maps),
        "remarks": remarks(maps),
        "layers": list(result.maps[0].layer_groups),
        "maps": [{**entry, "data": _packed(values), "layers": {
            name: _packed(one) for name, one in layers.get(entry["key"], {}).items()}} for entry, values in maps]}


def maps_of(result: GenerationResult) -> list[tuple[dict[str, Any], np.ndarray]]:
    """(what it is, values (S, H, W)) of every map: the subtraction of Fig. 3, then the phrases and the targets."""
    sequence = _subtractions(result)
    found = [(_entry("soft_map", "steps", strings.INSPECT_SOFT), sequence[0])]
    for index, (phrase, values) in enumerate(zip(result.prompt.phrases, sequence[1:], strict=True)):
        name = strings.INSPECT_WITHOUT.format(text=phrase.text)
        found.append((_entry(f"without:{index}", "steps", name, phrase), values))
    found.append((_entry("sfcm", "steps", strings.INSPECT_SFCM, note=strings.INSPECT_SFCM_NOTE), _stack(result, "sfcm")))
    for group, name, phrases in (("phrases", "phrase_maps", result.prompt.phrases),
                                 ("targets", "target_maps", result.prompt.targets),
                                 ("originals", "original_maps", result.prompt.phrases)):
        stacked = _stack(result, name)
        if not stacked.size:
            continue
        for index, (phrase, values) in enumerate(zip(phrases, np.moveaxis(stacked, 1, 0), strict=True)):
            note = strings.INSPECT_GAMMA.format(gamma=result.gamma[index]) if group == "phrases" else ""
            text = strings.INSPECT_IN_ORIGINAL.format(text=phrase.text) if group == "originals" else phrase.text
            found.append((_entry(f"{name}:{index}", group, text, phrase, note), values))
    return found


def layers_of(result: GenerationResult) -> dict[str, dict[str, np.ndarray]]:
    """By the key of a phrase's map and the name of a group of layers: the map with these layers alone, (S, H, W)."""
    names = result.maps[0].layer_groups
    if not names:
        return {}
    count, others = len(result.prompt.phrases), len(result.prompt.targets)
    keys = [f"{name}:{index}" for name, many in (("phrase_maps", count), ("target_maps", others), ("original_maps", count))
            for index in range(many)]
    by_key = np.moveaxis(_stack(result, "layer_maps"), 2, 0)  # (2 P + K, S, G, H, W)
    return {key: dict(zip(names, np.moveaxis(one, 1, 0), strict=True)) for key, one in zip(keys, by_key, strict=True)}


def _entry(key: str, group: str, name: str, phrase: Phrase | None = None, note: str = "") -> dict[str, Any]:
    return {"key": key, "group": group, "name": name, "note": note, "start": phrase.start if phrase else 0,
            "end": phrase.end if phrase else 0}


def _stack(result: GenerationResult, name: str) -> np.ndarray:
    return np.stack([getattr(one, name) for one in result.maps])


def _subtractions(result: GenerationResult) -> np.ndarray:
    """M, and M after each phrase was taken away: (P + 1, S, H, W)."""
    import torch  # only from here on: the page opens without it

    from spf.method.control_map import subtraction_sequence

    soft, phrases = (torch.as_tensor(_stack(result, name)).float() for name in ("soft_map", "phrase_maps"))
    gamma = torch.as_tensor(result.gamma).float().expand(len(soft), -1)
    return subtraction_sequence(soft, phrases, gamma).numpy().swapaxes(0, 1)


def messages(result: GenerationResult, maps: list[tuple[dict[str, Any], np.ndarray]]) -> list[str]:
    """What is wrong with these maps, in words: empty ones, broken ones, phrases cut off or not located."""
    found = []
    for entry, values in maps:
        trouble = overlay.trouble(values)
        if trouble == "nan":
            found.append(strings.MAP_NAN.format(caption=f"'{entry['name']}'"))
        elif entry["group"] in ("phrases", "targets", "originals") and np.ptp(values) < overlay.FLAT:
            found.append(strings.INSPECT_WEAK.format(name=entry["name"]))
        elif trouble == "empty" and not entry["key"].startswith("without:"):
            found.append(strings.INSPECT_EMPTY.format(name=entry["name"]))
    asked = Shown.of_request(result.request).phrases
    if cut := asked[len(result.prompt.phrases):]:
        found.append(strings.PHRASES_DROPPED.format(phrases=", ".join(f"'{text}'" for text in cut)))
    return found


def remarks(maps: list[tuple[dict[str, Any], np.ndarray]]) -> list[str]:
    """What is not wrong, but has to be known: which phrases are abstract, so that no place of the picture is theirs."""
    names = [f"'{entry['name']}'" for entry, values in maps if entry["group"] in ("phrases", "targets")
             and overlay.trouble(values) is None and np.ptp(values) >= overlay.FLAT and overlay.is_spread(values.mean(axis=0))]
    return [strings.INSPECT_SPREAD.format(names=", ".join(names))] if names else []


def _words(text: str) -> list[tuple[int, int]]:
    """Spans of the words, which the page underlines."""
    spans, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        spans.append((start, start + len(word.rstrip(",.")) or start + len(word)))
        start += len(word)
    return spans


def _packed(values: np.ndarray) -> str:
    """Values in [0, 1] in 255 levels, as text; what is no number counts as 0 and is named in the messages."""
    levels = (np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 1) * 255).round().astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode("ascii")
