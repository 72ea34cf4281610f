"""From scores to numbers: every row's columns with their intervals, who is first, and what was left out and why."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

import spf
from spf.backbones import checkpoints
from spf.config import REPOSITORY
from spf.evaluation.run import PRESERVATION, Cell, Evaluation
from spf.metrics.base import Metric, Rows, Summary, summarise

PAPER_COLUMNS = ("fid", "lpips", "id", "clip_i", "seg_cons", "clip_t", "hps", "mps")
WORLD_COLUMNS = ("untouched", "response", "pixels_outside", "features_outside", "kid", "mps_win", "clip_t_full")
RANKED = ("fid", "lpips", "id", "clip_i", "seg_cons", "untouched", "pixels_outside")  # the columns of preservation
GROUP_OF = {"fid": "fid", "kid": "fid", "lpips": "lpips", "id": "id", "clip_i": "clip", "clip_t": "clip",
            "clip_t_full": "clip", "seg_cons": "seg_cons", "hps": "hps", "mps": "mps", "mps_win": "mps"}

Columns = dict[str, Summary]  # by metric key


def report(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that tables and figures show, as plain values. All scores must be there."""
    config = evaluation.config
    rows = {row: _row(evaluation, row) for row in config.shown}
    return {
        "name": config.name, "model": config.model, "split": config.split, "targets": list(evaluation.targets),
        "triples_per_target": config.triples, "minutes": minutes(evaluation),
        "made_with": provenance() | {"model_sha256": checkpoints.denoiser_hash(evaluation.preset)},
        "config": config.model_dump(mode="json"), "metrics": [_about(metric) for metric in evaluation.columns.metrics],
        "unavailable": dict(evaluation.columns.unavailable),
        "rows": {row: {"title": config.methods[row].title, **found} for row, found in rows.items()},
        "reconstruction": {row: plain(summaries(evaluation, [Cell(row, target, False) for target in evaluation.targets]))
                           for row in config.reconstruction},
        "sensitivity": _sensitivity(evaluation),
        "ranking": ranking({row: found["columns"] for row, found in rows.items()}, config.response_floor,
                           evaluation.columns.metrics),
    }


def summaries(evaluation: Evaluation, cells: Sequence[Cell]) -> Columns:
    """Every column over the pairs of these cells together."""
    scores = [evaluation.rows(cell) or {} for cell in cells]
    joined = {name: Rows.joined([part[name] for part in scores]) for name in scores[0]}
    return {metric.key: summarise(metric, joined[evaluation.extractor_of(metric.key)], evaluation.config.resamples)
            for metric in evaluation.columns.metrics if evaluation.extractor_of(metric.key) in joined}


def ranking(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], floor: float, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Among rows whose target response reaches `floor` per cent: who is first in each column, and whether clearly so.

    Clearly: the intervals of the first and the second do not overlap.
    """
    ranked = [row for row, columns in rows.items() if (columns["response"]["value"] or 0) >= floor]
    found: dict[str, Any] = {"floor": floor, "ranked": ranked, "left_out": [row for row in rows if row not in ranked]}
    better = {metric.key: metric.better for metric in metrics}
    found["columns"] = {key: order for key in RANKED if key in better
                        and (order := _order({row: rows[row][key] for row in ranked}, better[key]))}
    return found


def _order(columns: Mapping[str, Mapping[str, Any]], better: str) -> dict[str, Any] | None:
    sign = 1 if better == "down" else -1
    order = sorted((row for row in columns if columns[row]["value"] is not None),
                   key=lambda row: sign * columns[row]["value"])
    if not order:
        return None
    if len(order) == 1:
        return {"first": order[0], "second": None, "clear": None}
    first, second = columns[order[0]], columns[order[1]]
    clear = first["high"] < second["low"] if better == "down" else first["low"] > second["high"]
    return {"first": order[0], "second": order[1], "clear": bool(clear)}


def _row(evaluation: Evaluation, row: str) -> dict[str, Any]:
    by_target = {target: plain(summaries(evaluation, [Cell(row, target)])) for target in evaluation.targets}
    return {"columns": plain(summaries(evaluation, [Cell(row, target) for target in evaluation.targets])),
            "targets": by_target}


def _sensitivity(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    study = evaluation.config.sensitivity
    if study is None:
        return {}
    return {name: [{"value": value, "columns": plain(summaries(
        evaluation, [Cell(study.row, target, True, ((name, value),)) for target in study.targets]))} for value in values]
        for name, values in study.values.items()}


def plain(columns: Columns) -> dict[str, dict[str, Any]]:
    """JSON has no NaN: an interval that is none becomes null."""
    return {key: {name: None if isinstance(value, float) and not np.isfinite(value) else value
                  for name, value in asdict(summary).items()} for key, summary in columns.items()}


def _about(metric: Metric) -> dict[str, Any]:
    return {"key": metric.key, "title": metric.title, "better": metric.better, "extractor": metric.extractor.name,
            "minimum_pairs": metric.minimum, "preservation": metric.key in PRESERVATION}


def minutes(evaluation: Evaluation) -> dict[str, float]:
    """What training and drawing took in all, whenever and in however many shards they were done."""
    trained = {found.folder: float(found.card.summary.get("seconds", 0)) for cell in evaluation.cells()
               for found in evaluation.lineage(cell) if found.folder.parent.parent == evaluation.folder}
    drawn = 0.0
    for path in evaluation.pictures.folder.glob("*/*.npz"):
        if (arrays := evaluation.pictures.load(path.stem)) is not None:
            drawn += float(arrays["seconds"])
    return {"training": round(sum(trained.values()) / 60, 1), "drawing": round(drawn / 60, 1)}


def provenance() -> dict[str, str]:
    """Which code and which device made the numbers."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "spf", "configs", "assets"], capture_output=True, text=True,
                                 check=True).stdout.strip()
        commit += " with local changes" if changed else ""
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return {"spf": spf.__version__, "commit": commit, "torch": torch.__version__, "device": device}
