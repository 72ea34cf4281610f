"""The recorded script that breaks training on purpose, with few rounds and without a model."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def test_the_quick_part_of_the_recorded_script(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/resilience.py", "--quick", "--out", str(tmp_path / "report.json")], cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads((tmp_path / "report.json").read_text())
    saving, disk, starts = report["saving"], report["disk"], report["starts"]
    assert saving["newest_loads"] == saving["kills"] == 5 and saving["reported_but_lost"] == saving["half_but_listed"] == 0
    assert disk["points"] in (0, 20) and disk.get("old_checkpoint_loads", 0) == disk["points"]
    assert (starts["jobs"], starts["run_folders"]) == (1, 1)
