"""Where a run's numbers go besides metrics.jsonl."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spf.errors import InvalidInput

Report = Callable[[dict[str, Any]], None]


def require_reporter(report_to: str) -> None:
    """Raises InvalidInput if the package that `report_to` needs is not installed."""
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        raise InvalidInput("report_to", f"the package '{report_to}' is not installed; run 'pip install {report_to}', "
                                        "or choose 'none': metrics.jsonl is written in any case")


def reporter(report_to: str, folder: Path, first_step: int = 0) -> Report:
    """A function that takes one line of metrics. What an earlier process told of `first_step` and later steps is hidden."""
    if report_to == "none":
        return lambda line: None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder / "tensorboard", purge_step=first_step)

    def report(line: dict[str, Any]) -> None:
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                writer.add_scalar(f"{line['stage']}/{name}", value, line["step"])
        writer.flush()

    return report
