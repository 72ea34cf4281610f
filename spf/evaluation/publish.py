"""Writes what an evaluation found: one JSON, Markdown tables, figures; and the committed page of results, if asked for."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spf.config import REPOSITORY
from spf.evaluation import continuous, figures, tables
from spf.evaluation.report import PAPER_COLUMNS, report
from spf.evaluation.run import Cell, Evaluation
from spf.evaluation.shards import one_at_a_time
from spf.files import replace_folder

Figures = dict[str, tuple[str, Image.Image]]  # title -> file name, picture


def write(evaluation: Evaluation) -> Path:
    """`table.json`, `table.md`, `table-<number>.md` and `figures/` in the evaluation's folder; the path of `table.md`.

    With `publish` in the configuration, the page and its figures are also written there.
    """
    with one_at_a_time(evaluation.folder / "tables"):  # several shards may be the last one
        return _written(evaluation)


def _written(evaluation: Evaluation) -> Path:
    found = report(evaluation)
    drawn = _figures(evaluation, found)
    if evaluation.config.continuous is not None:
        strips, found["continuous"] = continuous.strips(evaluation)
        drawn["Continuous addition and replacement (Fig. 7a)"] = ("continuous.png", strips)
    folder = evaluation.folder
    _write_figures(folder / "figures", drawn)
    _write_text(folder / "table.json", json.dumps(found, indent=1, allow_nan=False))
    _write_text(folder / "pictures.json", json.dumps(_behind(evaluation)))
    for key, wanted in evaluation.config.tables.items():
        _write_text(folder / f"table-{key}.md", f"# {wanted.title}\n\n{tables.table(found, wanted.rows, PAPER_COLUMNS)}\n")
    _write_text(folder / "table.md", tables.page(found, {title: f"figures/{name}" for title, (name, _) in drawn.items()}))
    if evaluation.config.publish:
        page = REPOSITORY / evaluation.config.publish
        _write_figures(page.with_suffix(""), drawn)
        _write_text(page, tables.page(found, {title: f"{page.stem}/{name}" for title, (name, _) in drawn.items()}))
        _write_text(page.with_suffix("") / "table.json", json.dumps(found, indent=1, allow_nan=False))
    return folder / "table.md"


def _behind(evaluation: Evaluation) -> dict[str, Any]:
    """Which stored pictures the numbers were measured on: by table, title of the row and target, as `stored_pairs` has them."""
    config = evaluation.config
    return {name: {config.methods[row].title: {target: evaluation.stored_pairs(Cell(row, target, full))
                                               for target in evaluation.targets} for row in rows}
            for name, rows, full in (("rows", config.shown, True), ("reconstruction", config.reconstruction, False))}


def _figures(evaluation: Evaluation, found: Mapping[str, Any]) -> Figures:
    config = evaluation.config
    drawn: Figures = {f"Same seeds, every method: {target}": (f"sheet-{target}.png", _sheet(
        evaluation, target, list(config.shown), True)) for target in evaluation.targets}
    if config.reconstruction:
        target = evaluation.targets[0]
        drawn["Base text alone (Fig. 13)"] = (
            "reconstruction.png", _sheet(evaluation, target, list(config.reconstruction), False))
    for name, points in found["sensitivity"].items():
        title = name.removeprefix("method.")
        drawn[f"Sensitivity to {title} (Fig. 14)"] = (f"sensitivity-{title}.png", figures.plot(
            title, [point["value"] for point in points], [_curve(points, found, key) for key in ("fid", "response")]))
    return drawn


def _sheet(evaluation: Evaluation, target: str, rows: Sequence[str], full: bool) -> Image.Image:
    """Original and every row, on the first seeds of a target."""
    pieces = evaluation.pieces(target)
    cases = [case for piece in pieces for case in piece][:evaluation.config.sheet_rows]
    columns = [_pictures(evaluation, None, pieces)]
    columns += [_pictures(evaluation, Cell(row, target, full), pieces) for row in rows]
    titles = ["Original", *(evaluation.config.methods[row].title for row in rows)]
    labels = [(case.prompt if full else case.base).text for case in cases]
    return figures.sheet([[column[index] for column in columns] for index in range(len(cases))], titles, labels)


def _pictures(evaluation: Evaluation, cell: Cell | None, pieces) -> np.ndarray:
    wanted, found = evaluation.config.sheet_rows, []
    for piece in pieces:
        if sum(map(len, found)) < wanted:
            found.append(evaluation.original(piece) if cell is None else evaluation.portraits(cell, piece))
    return np.concatenate(found)[:wanted]


def _curve(points: Sequence[Mapping[str, Any]], found: Mapping[str, Any], key: str) -> figures.Curve:
    about = {metric["key"]: metric["title"] for metric in found["metrics"]}
    columns = [point["columns"].get(key, {"value": None, "low": None, "high": None}) for point in points]
    return figures.Curve(about.get(key, key), *([column[part] for column in columns] for part in ("value", "low", "high")))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.partial")
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)


def _write_figures(folder: Path, drawn: Figures) -> None:
    """The folder with exactly these pictures."""
    staged = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}.partial")
    staged.mkdir(parents=True)
    try:
        for name, image in drawn.values():
            image.save(staged / name)
        replace_folder(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
