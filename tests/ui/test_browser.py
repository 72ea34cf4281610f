"""Journeys through the page in real Chromium: with stand-ins, and with the embedded model where its weights are there."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from spf.config import REPOSITORY
from spf.ui import build, launch, strings

CHROMIUM = Path(os.environ.get("SPF_CHROMIUM", "/usr/bin/chromium"))
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                  "--disable-background-networking", "--disable-component-update"]
PATIENCE = 120_000  # ms: conditions are met in a second, but not on a machine that does other things
TEACHING = 600_000

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed; set SPF_CHROMIUM")
WEIGHTS = REPOSITORY / "assets" / "pocket" / "unet"
BOTH = pytest.mark.parametrize("served", ["fake", pytest.param("real", marks=pytest.mark.skipif(
    not WEIGHTS.is_dir(), reason=f"{WEIGHTS} is missing; train it with 'python -m spf pretrain pocket'"))], indirect=True)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def served(request, service, training, spf_home, tmp_path) -> Iterator[str]:
    """The address of a running studio: `app.py` in a process of its own, or the page over stand-ins."""
    if getattr(request, "param", "fake") == "real":
        yield from _real_app(spf_home, tmp_path)
        return
    training(steps=40, seconds_per_step=0.05)
    service.seconds_per_step = 0.02
    demo = build.build(service)
    yield launch.launch(demo)
    demo.close()


def _real_app(home: Path, folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open(folder / "app.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log,
            text=True, env={**os.environ, "SPF_HOME": str(home)})
        try:
            line = process.stdout.readline()  # printed when the page can be opened
            assert "ready" in line, (folder / "app.log").read_text(errors="replace")
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def page(browser, served) -> Iterator[Page]:
    """The opened page; afterwards, no script may have failed and nothing outside may have been asked for."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith((served, "data:", "blob:")) else failures.append(sent.url))
    open_page(page, served)
    yield page
    context.close()
    assert failures == []


def open_page(page: Page, url: str) -> None:
    """Open, and wait until the page has filled in what it knows."""
    page.goto(url)
    expect(page.locator("#spf-generate")).to_be_enabled()
    expect(page.locator("#spf-status")).to_contain_text(strings.STATUS_READY)


def field(page: Page, name: str):
    return page.locator(f"#spf-{name}").locator("input, textarea").first


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def add_phrase(page: Page, phrase: str) -> None:
    page.locator(".spf-chip-add").fill(phrase)
    page.locator(".spf-chip-add").press("Enter")


def phrases(page: Page) -> list[str]:
    return page.locator(".spf-chip input").evaluate_all("fields => fields.map(field => field.value)")


def generate(page: Page, results: int) -> None:
    """Press Generate, and wait for the result that makes `results` in the strip."""
    page.locator("#spf-generate").click()
    expect(page.locator("#spf-strip .thumbnail-item")).to_have_count(results, timeout=3 * PATIENCE)
    expect(page.locator("#spf-generate")).to_be_enabled()
    expect(page.locator("#spf-status .spf-metrics")).to_be_visible()


def picture(page: Page, name: str) -> np.ndarray:
    """The pixels that a picture of the page shows, (H, W, 3)."""
    source = page.locator(f"#spf-{name} img").get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"), float)


def refused(page: Page, where: str, *words: str) -> None:
    notice = page.locator(f"{where} .spf-problem")
    for word in words:
        expect(notice).to_contain_text(word)
    expect(page.locator("#spf-generate")).to_be_enabled()


@BOTH
def test_generate_teach_and_generate_with_what_was_taught(page):
    if "a winter hat" not in phrases(page):
        add_phrase(page, "a winter hat")
    generate(page, 1)
    assert picture(page, "overlay").std(axis=(0, 1)).max() > 5, "the SFCM overlay is not uniform"
    assert not np.array_equal(picture(page, "overlay"), picture(page, "customized"))
    expect(page.locator("#spf-caption")).to_contain_text(re.compile(r"SFCM.*mean of 5 drawn steps \(t = \d+ to \d+\)"))

    tab(page, strings.TAB_TEACH)
    page.locator("#spf-attribute input").click()
    page.get_by_role("option", name="an eyepatch").click()
    expect(field(page, "name")).to_have_value("eyepatch")
    field(page, "count").fill("8")
    page.locator("#spf-teach-start").click()
    expect(page.locator("#spf-teach-notice")).to_contain_text("8 usable pictures, ready to train")
    expect(page.locator("#spf-run")).to_contain_text("'eyepatch' is taught", timeout=TEACHING)
    expect(page.locator("#spf-curve canvas, #spf-curve svg").first).to_be_visible()
    expect(page.locator("#spf-losses")).to_contain_text("fine alignment")
    assert picture(page, "sample-sfcm").std(axis=(0, 1)).max() > 5

    tab(page, strings.TAB_PORTRAIT)
    expect(field(page, "customization")).to_have_value("eyepatch")
    if phrases(page) != ["an eyepatch"]:  # a phrase that was typed is never replaced
        page.locator(".spf-chip button").first.click()
        page.locator(".spf-chip-known button", has_text="an eyepatch").click()
    generate(page, 2)
    assert picture(page, "overlay").std(axis=(0, 1)).max() > 5

    page.locator("#spf-strip .thumbnail-item").nth(1).click()
    expect(page.locator(".spf-chip input").first).to_have_value("a winter hat")
    expect(field(page, "customization")).not_to_have_value("eyepatch")


@BOTH
def test_bad_input_is_answered_in_words_and_the_form_is_kept(page, tmp_path):
    field(page, "base-text").fill("")
    field(page, "seed").fill("11")
    page.locator("#spf-generate").click()
    refused(page, "#spf-notice", "Base text: is empty; describe the portrait")
    expect(field(page, "seed")).to_have_value("11")

    field(page, "base-text").fill("x" * 100_000)
    page.locator("#spf-generate").click()
    refused(page, "#spf-notice", "Base text: is too long (100,000 characters)")

    field(page, "base-text").fill("a person in a red hat")
    add_phrase(page, "A person in a red hat.")
    page.locator("#spf-generate").click()
    refused(page, "#spf-notice", "Target phrases: equals base_text")

    page.locator(".spf-chip button").last.click()
    for name, value, label in (("seed", "abc", "Seed: must be a number"), ("steps", "0", "Steps: "), (
            "guidance", "-3", "Guidance: "), ("map-steps", "", "Map steps: must be a number")):
        kept = field(page, name).input_value()
        field(page, name).fill(value)
        page.locator("#spf-generate").click()
        refused(page, "#spf-notice", label)
        expect(field(page, name)).to_have_value(value)
        field(page, name).fill(kept)
    expect(field(page, "base-text")).to_have_value("a person in a red hat")
    expect(page.locator("#spf-strip")).to_be_hidden()

    tab(page, strings.TAB_TEACH)
    page.get_by_text(strings.SOURCE_UPLOAD, exact=True).click()
    page.locator("#spf-teach-start").click()
    refused(page, "#spf-teach-notice", "Pictures: none were given")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    Image.new("RGB", (96, 96), "teal").save(tmp_path / "good.png")
    page.locator("#spf-uploads input[type=file]").set_input_files([tmp_path / "broken.png", tmp_path / "good.png"])
    field(page, "phrase").fill("a tall hat")
    field(page, "name").fill("tall-hat")
    expect(page.locator("#spf-uploads")).to_contain_text("good")
    page.locator("#spf-teach-start").click()
    refused(page, "#spf-teach-notice", "1 problem", "broken.png: is not a picture")
    expect(field(page, "phrase")).to_have_value("a tall hat")
    expect(page.locator("#spf-no-run")).to_be_visible()


def test_phrases_are_added_swapped_and_removed(page, service):
    assert phrases(page) == ["a winter hat"]
    page.locator(".spf-chip-known button", has_text="a warm winter hat").click()
    add_phrase(page, "  a   green parrot ")
    page.locator(".spf-chip input").nth(0).fill("a turban")
    page.locator(".spf-chip input").nth(0).press("Enter")
    page.get_by_role("button", name="Remove a warm winter hat").click()
    page.locator(".spf-chip-add").fill("<b>bold</b> ${1+1} {{value}}")  # left without Enter, as people do
    generate(page, 1)
    assert service.requests[0].target_texts == ("a turban", "a green parrot", "<b>bold</b> ${1+1} {{value}}")
    assert phrases(page) == list(service.requests[0].target_texts)


def test_looking_at_maps_does_not_run_the_model(page, service):
    generate(page, 1)
    seen = {picture(page, "overlay").tobytes()}
    page.locator("#spf-map input").click()
    page.get_by_role("option", name=re.compile("^M: ")).click()
    expect(page.locator("#spf-caption")).to_contain_text("M: where the two models differ, mean")
    field(page, "step").fill("3")
    field(page, "step").press("Enter")
    expect(page.locator("#spf-caption")).to_contain_text("step 12 of 20")
    expect(page.locator("#spf-mean input")).not_to_be_checked()
    source = page.locator("#spf-overlay img").get_attribute("src")
    field(page, "opacity").fill("0")
    field(page, "opacity").press("Enter")
    expect(page.locator("#spf-overlay img")).not_to_have_attribute("src", source)
    assert np.array_equal(picture(page, "overlay"), picture(page, "customized"))
    assert picture(page, "overlay").tobytes() not in seen
    assert len(service.requests) == 1


def test_cancel_ends_a_generation_and_the_next_one_works(page, service):
    service.seconds_per_step = 0.5
    page.locator("#spf-generate").click()
    expect(page.locator("#spf-status")).to_contain_text("Drawing: step")
    page.locator("#spf-cancel").click()
    expect(page.locator("#spf-notice")).to_contain_text("Cancelled")
    expect(page.locator("#spf-generate")).to_be_enabled()
    service.seconds_per_step = 0.0
    generate(page, 1)


def test_a_reloaded_page_finds_the_run_and_can_cancel_it(page, served, training):
    training(steps=2000, seconds_per_step=0.1)
    tab(page, strings.TAB_TEACH)
    field(page, "count").fill("8")
    page.locator("#spf-teach-start").click()
    expect(page.locator("#spf-run")).to_contain_text("Stage 1")
    open_page(page, served)
    tab(page, strings.TAB_TEACH)
    expect(page.locator("#spf-run")).to_contain_text("Teaching 'winter-hat-2'")
    page.locator("#spf-run-cancel").click()
    expect(page.locator("#spf-run")).to_contain_text("was cancelled")
    expect(page.locator("#spf-teach-start")).to_be_enabled()


def test_two_pages_show_nothing_of_one_another(page, browser, served):
    field(page, "seed").fill("11")
    generate(page, 1)
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(PATIENCE)
    open_page(other, served)
    expect(other.locator("#spf-strip")).to_be_hidden()
    field(other, "seed").fill("99")
    generate(other, 1)
    expect(page.locator("#spf-strip .thumbnail-item")).to_have_count(1)
    expect(page.locator("#spf-status")).to_contain_text("seed 11")
    context.close()


@pytest.mark.parametrize("width", [390, 1440, 1920])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    generate(page, 1)
    for name in (strings.TAB_TEACH, strings.TAB_PORTRAIT):
        tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
