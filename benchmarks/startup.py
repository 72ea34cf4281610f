"""Seconds from `python app.py` to a page whose Generate button can be pressed: `python benchmarks/startup.py`."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]


def main() -> None:
    runs = [once() for _ in range(3)]
    print(json.dumps({"usable_seconds": {"median": round(statistics.median(runs), 2), "all": [round(r, 2) for r in runs]}}))


def once() -> float:
    """One cold start, browser start included."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)], cwd=REPOSITORY, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_served(f"http://127.0.0.1:{port}", server)
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS).new_page()
            page.goto(f"http://127.0.0.1:{port}")
            page.locator("#spf-generate:not([disabled])").wait_for(timeout=60_000)
            return time.perf_counter() - started
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _wait_until_served(url: str, server: subprocess.Popen) -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit("app.py ended before it served the page")


if __name__ == "__main__":
    main()
