"""The pictures of the page in the documentation: `python benchmarks/screens.py --out docs/screens`.

Every view at three widths in both themes, as `<view>-<width>-<theme>.png`: a fresh data folder, the shipped customization,
the seed that the page begins with; a winter hat taught from 24 pictures, once; the library, a blind comparison before its
pairs are drawn, and the published results.
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent))

from page import WAIT, fill, pair, served  # noqa: E402
from startup import FLAGS  # noqa: E402

WIDTHS, THEMES = (1280, 390, 1920), ("light", "dark")
TABS = ("Portrait", "Inspect", "Teach", "Library", "Blind comparison", "Results")  # in the order of their keys
LONG = ("results", "library")  # only what is seen without scrolling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, served(home) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("SPF_CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
        for number, (width, theme) in enumerate(product(WIDTHS, THEMES)):
            page = opened(browser, url, width, theme)
            for view in views(page, first=number == 0):
                keep(page, out / f"{view}-{width}-{theme}.png", whole=view not in LONG)
            page.context.close()


def views(page: Page, first: bool) -> Iterator[str]:
    """Leads through the page, and names every view when it stands. The `first` visitor also teaches."""
    yield "first-visit"
    draw(page)
    yield "portrait"
    tab(page, "Inspect")
    page.locator("#spf-inspector img").first.wait_for()
    page.wait_for_timeout(1500)  # the panes come one after another
    yield "inspect"
    tab(page, "Teach")
    if first:
        teach(page)
    page.locator("#spf-stages figcaption").nth(2).wait_for()  # the newest run is shown to every visitor
    page.wait_for_timeout(1000)
    yield "teach"
    for name, view in (("Library", "library"), ("Blind comparison", "compare"), ("Results", "results")):
        tab(page, name)
        page.wait_for_timeout(1500)
        yield view


def keep(page: Page, path: Path, whole: bool) -> None:
    """A picture of the page in 256 colours, a third of its size in all of them."""
    shot = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    shot.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def tab(page: Page, name: str) -> None:
    """By its key: a phone has no room for all of them in one row."""
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(str(TABS.index(name) + 1))
    page.locator('#spf-tabs [role="tab"][aria-selected="true"]', has_text=name).wait_for(state="attached")


def opened(browser: Browser, url: str, width: int, scheme: str = "light") -> Page:
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.locator("#spf-generate:not([disabled])").wait_for()
    page.wait_for_timeout(1000)  # the guide unfolds
    return page


def draw(page: Page) -> None:
    page.get_by_role("button", name="Do not show this again").click()
    pair(page, int(page.locator("#spf-seed").locator("input, textarea").first.input_value()))


def teach(page: Page) -> None:
    page.locator("#spf-attribute input").click()
    page.get_by_role("option", name="a winter hat").click()
    fill(page, "count", 24)
    page.locator("#spf-teach-start").click()
    page.locator("#spf-run", has_text="is taught").wait_for(timeout=4 * WAIT)


if __name__ == "__main__":
    main()
