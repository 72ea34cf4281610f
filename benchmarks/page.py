"""What a visitor waits for, in a real browser, and what a swapped phrase and the maps cost: `python benchmarks/page.py`.

First paint counts from the start of the browser's navigation, after `app.py` has said that it is ready. Ratios are of the
seconds that the page tells for one pair each, as `result.json` has them, measured in turn in the same session; medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent))

from startup import FLAGS, REPOSITORY  # noqa: E402

LIMITS = {"start_to_paint": 3.0, "first_preview": 1.5, "swap_over_pair": 0.55, "overlays_over_none": 1.05}
WAIT = 300_000  # ms
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, served(home) as (url, ready), sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=os.environ.get("SPF_CHROMIUM", "/usr/bin/chromium"),
                                          args=FLAGS).new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        paint = page.wait_for_function(PAINTED).json_value()
        page.locator("#spf-generate:not([disabled])").wait_for()
        found = {"start_to_ready": ready, "first_paint": paint, "start_to_paint": ready + paint}
        found |= measure(page, Path(home), arguments.repeat)
    print(json.dumps({"seconds_and_ratios": {name: rounded(value) for name, value in found.items()}, "limits": LIMITS,
                      "within": {name: found[name] <= limit for name, limit in LIMITS.items()}}, indent=2))


def rounded(value: float | list[float]) -> float | list[float]:
    return [round(one, 3) for one in value] if isinstance(value, list) else round(value, 3)


def measure(page: Page, home: Path, repeat: int) -> dict[str, float | list[float]]:
    """Seconds to the first preview of a warm model, and ratios of what whole pairs, swaps and pairs without maps take."""
    page.locator("#spf-live input").uncheck()
    page.locator("#spf-more button").first.click()
    pair(page, 0)  # the model is loaded by then
    seconds: dict[str, list[float]] = {"preview": [], "pair": [], "swap": [], "no_maps": []}

    def take(name: str, seed: int, change: Callable[[], object] = lambda: None) -> None:
        pair(page, seed, change)
        seconds[name].append(told(home))

    for turn in range(1, repeat + 1):
        seconds["preview"].append(preview(page, 100 * turn))
        take("pair", 100 * turn + 1)
        take("swap", 100 * turn + 1, lambda turn=turn: rewrite(page, f"a turban {turn}"))
        take("no_maps", 100 * turn + 2, lambda: fill(page, "map-steps", 0))
        fill(page, "map-steps", 5)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    quartiles = {f"{name}_quartiles": [statistics.quantiles(values)[i] for i in (0, 2)] for name, values in seconds.items()}
    return {"first_preview": middle["preview"], "pair": middle["pair"], "swap_over_pair": middle["swap"] / middle["pair"],
            "overlays_over_none": middle["pair"] / middle["no_maps"], **quartiles}


def told(home: Path) -> float:
    """Seconds of the newest result: drawing both paths, and the maps."""
    newest = max(home.glob("outputs/*/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    return sum(json.loads(newest.read_text(encoding="utf-8"))["seconds"].values())


def preview(page: Page, seed: int) -> float:
    """From the press of Generate to the first growing picture; the pair is then drawn to its end."""
    fill(page, "seed", seed)
    picture = page.locator('[data-pane="customized"]')
    before = picture.get_attribute("src")
    started = time.perf_counter()
    steps = page.locator(".spf-step").count()
    page.locator("#spf-generate").click()
    page.wait_for_function("""before => document.querySelector('[data-pane="customized"]').getAttribute('src') !== before""",
                           arg=before)
    seconds = time.perf_counter() - started
    _drawn(page, steps + 1)
    return seconds


def pair(page: Page, seed: int, change: Callable[[], object] = lambda: None) -> None:
    """Draw one result to its end."""
    fill(page, "seed", seed)
    change()
    steps = page.locator(".spf-step").count()
    page.locator("#spf-generate").click()
    _drawn(page, steps + 1)


def _drawn(page: Page, steps: int) -> None:
    """Wait for the result that makes `steps` in the timeline; a swap is faster than its Cancel button could be seen."""
    page.locator(".spf-step").nth(steps - 1).wait_for()
    page.locator("#spf-generate:not([disabled])").wait_for()


def fill(page: Page, name: str, value: object) -> None:
    page.locator(f"#spf-{name}").locator("input, textarea").first.fill(str(value))


def rewrite(page: Page, phrase: str) -> None:
    page.locator(".spf-chip-text").first.fill(phrase)
    page.locator(".spf-chip-text").first.press("Enter")


@contextmanager
def served(home: str) -> Iterator[tuple[str, float]]:
    """(address, seconds from the start to 'ready') of app.py over an empty data folder."""
    started = time.perf_counter()
    server = subprocess.Popen([sys.executable, "app.py", "--port", "7899"], cwd=REPOSITORY, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, env={**os.environ, "SPF_HOME": home})
    try:
        line = server.stdout.readline()
        if "ready" not in line:
            raise SystemExit("app.py ended before it served the page")
        yield "http://127.0.0.1:7899/", time.perf_counter() - started
    finally:
        server.terminate()
        server.wait(timeout=60)


if __name__ == "__main__":
    main()
