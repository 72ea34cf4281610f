"""The pictures of the page in the documentation: `python benchmarks/screens.py --out docs/screens`.

A fresh data folder, the shipped customization, the seed that the page begins with; a winter hat taught from 24 pictures,
the library and the published results; then the first pair again in the dark theme and on a phone.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent))

from page import WAIT, fill, pair, served  # noqa: E402
from startup import FLAGS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, served(home) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("SPF_CHROMIUM", "/usr/bin/chromium"), args=FLAGS)
        page = opened(browser, url, 1280)
        page.screenshot(path=out / "first-visit.png", full_page=True)
        draw(page)
        page.screenshot(path=out / "portrait.png", full_page=True)
        page.get_by_role("tab", name="Inspect").click()
        page.locator("#spf-inspector img").first.wait_for()
        page.wait_for_timeout(1500)  # the panes come one after another
        page.screenshot(path=out / "inspect.png", full_page=True)
        teach(page)
        page.screenshot(path=out / "teach.png", full_page=True)
        for name in ("Library", "Results"):
            page.get_by_role("tab", name=name).click()
            page.wait_for_timeout(1500)
            page.screenshot(path=out / f"{name.lower()}.png")
        for name, width, scheme in (("dark", 1280, "dark"), ("phone", 390, "light")):
            page = opened(browser, url, width, scheme)
            draw(page)
            page.screenshot(path=out / f"{name}.png", full_page=True)


def opened(browser: Browser, url: str, width: int, scheme: str = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.locator("#spf-generate:not([disabled])").wait_for()
    page.wait_for_timeout(1000)  # the guide unfolds
    return page


def draw(page: Page) -> None:
    page.get_by_role("button", name="Do not show this again").click()
    pair(page, 6)


def teach(page: Page) -> None:
    page.get_by_role("tab", name="Teach").click()
    page.locator("#spf-attribute input").click()
    page.get_by_role("option", name="a winter hat").click()
    fill(page, "count", 24)
    page.locator("#spf-teach-start").click()
    page.locator("#spf-run", has_text="is taught").wait_for()
    page.locator("#spf-stages figcaption").nth(2).wait_for()
    page.wait_for_timeout(1000)


if __name__ == "__main__":
    main()
