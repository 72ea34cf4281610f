"""Journeys through the page in real Chromium: with stand-ins, and with the embedded model where its weights are there."""

from __future__ import annotations

import base64
import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fakes
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


def open_more(page: Page) -> None:
    """Its fields are made when it is first opened, and what is typed in that instant is lost; no hand is so fast."""
    page.locator("#spf-more button").first.click()
    page.wait_for_timeout(500)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def add_phrase(page: Page, phrase: str) -> None:
    page.locator(".spf-chip-add").fill(phrase)
    page.locator(".spf-chip-add").press("Enter")


def phrases(page: Page) -> list[str]:
    return page.locator(".spf-chip-text").evaluate_all("fields => fields.map(field => field.value)")


def generate(page: Page, results: int) -> None:
    """Press Generate, and wait for the result that makes `results` in the timeline."""
    page.locator("#spf-generate").click()
    drawn(page, results)


def drawn(page: Page, results: int) -> None:
    """Wait until the timeline has so many steps and nothing is under way."""
    expect(page.locator(".spf-step")).to_have_count(results, timeout=3 * PATIENCE)
    expect(page.locator("#spf-generate")).to_be_enabled()
    expect(page.locator("#spf-status .spf-metrics")).to_be_visible()


def picture(page: Page, name: str) -> np.ndarray:
    """The pixels that a picture of the page shows, (H, W, 3): a pane of the viewer, or a sample of the Teach tab."""
    source = page.locator(f'[data-pane="{name}"]:visible, #spf-{name} img').first.evaluate("image => image.src")
    data = base64.b64decode(source.partition(",")[2]) if source.startswith("data:") else page.request.get(source).body()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)


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
        page.locator("#spf-live input").uncheck()
        page.locator(".spf-chip-remove").first.click()
        page.locator(".spf-chip-known button", has_text="an eyepatch").click()
    generate(page, 2)
    assert picture(page, "overlay").std(axis=(0, 1)).max() > 5

    page.locator(".spf-step-open").first.click()
    expect(page.locator(".spf-chip-text").first).to_have_value("a winter hat")
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

    page.locator(".spf-chip-remove").last.click()
    open_more(page)
    for name, value, label in (("seed", "abc", "Seed: must be a number"), ("steps", "0", "Steps: "), (
            "guidance", "-3", "Guidance: "), ("map-steps", "", "Map steps: must be a number")):
        kept = field(page, name).input_value()
        field(page, name).fill(value)
        page.locator("#spf-generate").click()
        refused(page, "#spf-notice", label)
        expect(field(page, name)).to_have_value(value)
        field(page, name).fill(kept)
    expect(field(page, "base-text")).to_have_value("a person in a red hat")
    expect(page.locator(".spf-timeline")).to_be_hidden()

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
    page.locator(".spf-chip-text").nth(0).fill("a turban")
    page.locator(".spf-chip-text").nth(0).press("Enter")
    page.get_by_role("button", name="Remove a warm winter hat").click()
    page.locator(".spf-chip-add").fill("<b>bold</b> ${1+1} {{value}}")  # left without Enter, as people do
    generate(page, 1)
    assert service.requests[0].target_texts == ("a turban", "a green parrot", "<b>bold</b> ${1+1} {{value}}")
    assert phrases(page) == list(service.requests[0].target_texts)


def test_five_steps_with_undo_branch_comparison_and_a_reload(page, service, served):
    """Every change of the phrases is drawn at once, from the same seed, and nothing of it is lost."""
    generate(page, 1)
    add_phrase(page, "a turban")
    drawn(page, 2)
    page.get_by_role("button", name="Weight of a turban").click()
    page.get_by_role("slider", name="Weight of a turban").fill("1.5")
    drawn(page, 3)
    page.get_by_role("button", name="Move up a turban").click()
    drawn(page, 4)
    page.get_by_role("checkbox", name="Use a winter hat").uncheck()
    drawn(page, 5)
    last = service.requests[-1]
    assert (last.target_texts, last.target_weights, last.seed) == (("a turban",), (1.5,), service.requests[0].seed)

    page.get_by_role("button", name=strings.UNDO).click()
    expect(page.locator(".spf-current")).to_contain_text("order: a turban, a winter hat")
    page.get_by_role("button", name=strings.REDO).click()
    expect(page.locator(".spf-current")).to_contain_text("− a winter hat")
    page.locator(".spf-step-open").nth(1).click()
    expect(page.locator(".spf-current")).to_contain_text("+ a turban")
    assert phrases(page) == ["a winter hat", "a turban"]
    add_phrase(page, "an eyepatch")
    drawn(page, 6)
    expect(page.locator(".spf-branch")).to_have_count(1)

    page.locator(".spf-step-pin").nth(0).click()
    page.locator('[data-slot="a"] select').select_option("pinned")
    expect(page.locator('[data-slot="a"] img')).to_have_attribute("data-pane", "pinned")
    page.get_by_role("button", name="Slider").click()
    expect(page.locator(".spf-split")).to_be_visible()
    page.get_by_role("button", name=strings.ZOOM_IN).click()
    assert len(set(page.locator(".spf-frame img").evaluate_all("all => all.map(one => one.style.transform)"))) == 1
    with page.expect_download() as download:
        page.get_by_role("button", name=strings.CHAIN).click()
    with Image.open(download.value.path()) as sheet:
        assert sheet.width == 16 + 4 * (256 + 16)

    page.goto(served)
    expect(page.locator(".spf-step")).to_have_count(6)
    expect(page.locator(".spf-current")).to_contain_text("+ an eyepatch")
    expect(page.locator(".spf-chip")).to_have_count(3)
    assert len(service.requests) == 6


def test_a_batch_is_a_grid_and_one_pair_is_gone_on_with(page, service):
    field(page, "pairs-count").fill("4")
    open_more(page)
    page.locator("#spf-scheduler input").click()
    page.get_by_role("option", name="Euler").click()
    generate(page, 1)
    assert [request.seed for request in service.requests] == [3, 4, 5, 6] and service.requests[0].scheduler == "euler"
    expect(page.locator(".spf-pair")).to_have_count(4)
    page.get_by_role("button", name="Seed 5: original and customized").click()
    drawn(page, 2)
    expect(page.locator('.spf-pair[aria-current]')).to_contain_text("seed 5")
    expect(field(page, "seed")).to_have_value("5")
    expect(field(page, "pairs-count")).to_have_value("1")
    assert len(service.requests) == 4


def test_a_dropped_picture_restores_the_form(page, spf_home):
    generate(page, 1)
    saved = next((spf_home / "outputs").glob("*/*/customized.png"))
    field(page, "seed").fill("99")
    page.locator(".spf-chip-remove").first.click()
    drawn(page, 2)
    open_more(page)
    page.locator("#spf-restore input[type=file]").set_input_files(saved)
    expect(page.locator("#spf-notice")).to_contain_text(strings.RESTORED)
    expect(field(page, "seed")).to_have_value("3")
    assert phrases(page) == ["a winter hat"]


def test_a_refusal_stands_beside_its_field_until_that_is_changed(page, service):
    field(page, "seed").fill("abc")
    page.locator("#spf-generate").click()
    problem = page.locator("#spf-seed .spf-field-problem")
    expect(problem).to_have_text("must be a number, for example 7 (got 'abc')")
    expect(field(page, "seed")).to_have_attribute("aria-invalid", "true")
    field(page, "seed").fill("7")
    expect(problem).to_have_count(0)
    open_more(page)
    field(page, "steps").fill("0")
    page.locator("#spf-more button").first.click()
    page.locator("#spf-generate").click()
    expect(page.locator("#spf-steps .spf-field-problem")).to_be_visible()  # its accordion opens
    field(page, "steps").fill("8")
    generate(page, 1)
    expect(page.locator(".spf-field-problem")).to_have_count(0)
    tab(page, strings.TAB_TEACH)
    field(page, "name").fill("A Hat")
    page.locator("#spf-teach-start").click()
    expect(page.locator("#spf-name .spf-field-problem")).to_contain_text("lower-case letters")


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
    overlay = page.locator('[data-pane="overlay"]')
    source = overlay.get_attribute("src")
    field(page, "opacity").fill("0")
    field(page, "opacity").press("Enter")
    expect(overlay).not_to_have_attribute("src", source)
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


def test_earlier_samples_and_stage_1_alone_can_be_looked_at(page):
    tab(page, strings.TAB_TEACH)
    field(page, "count").fill("8")
    page.locator("#spf-teach-start").click()
    expect(page.locator("#spf-run")).to_contain_text("is taught")
    expect(page.locator("#spf-stages figcaption").nth(1)).to_contain_text("After stage 1, step 20")
    expect(page.locator("#spf-sample-words")).to_contain_text("step 40")
    field(page, "sample-at").fill("2")
    field(page, "sample-at").press("Enter")
    expect(page.locator("#spf-sample-words")).to_contain_text("step 20")


def test_settings_are_saved_used_and_deleted(page):
    open_more(page)
    field(page, "steps").fill("9")
    field(page, "preset-name").fill("fast")
    page.locator("#spf-preset-save").click()
    expect(page.locator("#spf-notice")).to_contain_text("saved as 'fast'")
    field(page, "steps").fill("20")
    page.locator("#spf-preset input").click()
    page.get_by_role("option", name="fast").click()
    expect(field(page, "steps")).to_have_value("9")
    page.locator("#spf-preset-delete").click()
    expect(page.locator("#spf-notice")).to_contain_text("'fast' is deleted")


def test_two_pages_show_nothing_of_one_another(page, browser, served):
    field(page, "seed").fill("11")
    generate(page, 1)
    context = browser.new_context()
    other = context.new_page()
    other.set_default_timeout(PATIENCE)
    open_page(other, served)
    expect(other.locator(".spf-timeline")).to_be_hidden()
    field(other, "seed").fill("99")
    generate(other, 1)
    expect(page.locator(".spf-step")).to_have_count(1)
    expect(page.locator("#spf-status")).to_contain_text("seed 11")
    context.close()


@pytest.mark.parametrize("width", [390, 1440, 1920])
def test_nothing_is_wider_than_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    generate(page, 1)
    for name in (strings.TAB_TEACH, strings.TAB_PORTRAIT):
        tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_inspector_explains_a_result_without_asking_the_model(page, service):
    tab(page, strings.TAB_INSPECT)
    expect(page.locator(".spf-inspector-empty")).to_be_visible()
    tab(page, strings.TAB_PORTRAIT)
    generate(page, 1)
    tab(page, strings.TAB_INSPECT)
    expect(page.locator('[data-part="name"]')).to_contain_text("SFCM")
    expect(page.locator('[data-part="ranking"] li').first).to_contain_text("0.9")
    page.locator('.spf-map-card[data-map="target_maps:0"]').click()
    expect(page.locator(".spf-inspect-prompt mark")).to_have_text("a winter hat")
    before = page.locator('[data-part="canvas"]').evaluate("canvas => canvas.toDataURL()")
    page.locator('[data-part="threshold"]').fill("0.5")
    assert page.locator('[data-part="canvas"]').evaluate("canvas => canvas.toDataURL()") != before
    shared = page.locator('.spf-map-card[data-map="without:1"] canvas').evaluate("canvas => canvas.toDataURL()")
    page.get_by_label(strings.INSPECT["shared"]).uncheck()
    assert page.locator('.spf-map-card[data-map="without:1"] canvas').evaluate("canvas => canvas.toDataURL()") != shared
    expect(page.locator('[data-part="twin"]')).to_be_hidden()
    page.locator('.spf-map-card[data-map="phrase_maps:0"]').click()
    expect(page.locator('[data-part="twin"]')).to_be_visible()
    twins = [page.locator(f'[data-part="{name}"]').evaluate("canvas => canvas.toDataURL()") for name in ("canvas", "twin")]
    assert twins[0] != twins[1]
    page.locator('[data-part="layer"]').select_option("16x16")
    assert page.locator('[data-part="canvas"]').evaluate("canvas => canvas.toDataURL()") != twins[0]
    page.locator('[data-part="step"]').fill("2")
    expect(page.locator('[data-part="when"]')).to_contain_text("step 8, t = ")
    with page.expect_download() as download:
        page.locator('[data-part="npz"]').click()
    with np.load(download.value.path()) as maps:
        assert maps["sfcm"].shape == (5, 16, 16)
    assert len(service.requests) == 1


def test_a_blind_comparison_from_the_pairs_to_the_rates(page, spf_home):
    fakes.add_customization(spf_home / "customizations", "turban", "a turban")
    tab(page, strings.TAB_COMPARE)
    for which, name in (("first", "winter-hat"), ("second", "turban")):
        page.locator(f"#spf-compare-{which} input").click()
        page.get_by_role("option", name=name).last.click()  # the list opened before may still be fading
        expect(page.get_by_role("option")).to_have_count(0)
    field(page, "compare-target").fill("a winter hat")
    field(page, "compare-count").fill("2")
    page.locator("#spf-compare-begin").click()
    for pair in (1, 2):
        expect(page.locator("#spf-compare-words")).to_contain_text(f"Pair {pair} of 2")
        for question in ("consistency", "responsiveness", "preference"):
            page.locator(f"#spf-compare-{question}").get_by_text("Left", exact=True).click()
        page.locator("#spf-compare-next").click()
    expect(page.locator("#spf-compare-results")).to_contain_text("winter-hat better")


def test_a_number_of_the_results_leads_to_its_pictures(page, spf_home):
    folder = spf_home / "evaluation" / "mine"
    (folder / "figures").mkdir(parents=True)
    (folder / "table.md").write_text("## By target: Ours\n\n| Target | FID |\n|---|---|\n| turban | 3.5 |\n| neon | 4.5 |\n")
    for name in ("neon", "turban"):
        Image.new("RGB", (64, 64), "teal").save(folder / "figures" / f"sheet-{name}.png")
    tab(page, strings.TAB_RESULTS)
    expect(page.locator("#spf-results-words")).to_contain_text(strings.RESULTS_HINT)
    page.locator("#spf-results-table td", has_text="3.5").click()
    expect(page.locator("#spf-results-figures .preview")).to_contain_text("sheet-turban")


NAMES_AND_CONTRAST = """() => {
  const found = [], visible = (node) => node.checkVisibility({ visibilityProperty: true }) && node.getClientRects().length;
  const named = (node) => node.getAttribute('aria-label') || node.innerText || node.title || node.placeholder
    || [...(node.labels ?? [])].map((label) => label.innerText).join('') || node.getAttribute('aria-labelledby')
    || node.querySelector('img')?.alt;
  for (const node of document.querySelectorAll('button, a[href], input, select, textarea')) {
    if (visible(node) && !named(node)?.trim()) found.push(`no name: ${node.outerHTML.slice(0, 160)}`);
  }
  for (const image of document.images) {
    if (visible(image) && image.getAttribute('alt') === null) found.push(`no alt: ${image.src.slice(0, 160)}`);
  }
  const canvas = new OffscreenCanvas(1, 1), brush = canvas.getContext('2d', { willReadFrequently: true });
  const paint = (color) => { brush.fillStyle = color; brush.fillRect(0, 0, 1, 1); };
  const light = () => [0.2126, 0.7152, 0.0722].reduce((sum, weight, channel) => {
    const one = brush.getImageData(0, 0, 1, 1).data[channel] / 255;
    return sum + weight * (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  }, 0);
  for (const node of document.querySelectorAll('[class*="spf-"], [class*="spf-"] *, label span')) {
    const says = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!says || !visible(node) || node.closest(':disabled, option, .spf-step-open')) continue;
    paint('white');
    const parents = [];
    for (let one = node; one; one = one.parentElement) parents.unshift(one);
    parents.forEach((one) => paint(getComputedStyle(one).backgroundColor));
    const ground = light();
    paint(getComputedStyle(node).color);
    const ratio = (Math.max(ground, light()) + 0.05) / (Math.min(ground, light()) + 0.05);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(1)}: ${node.textContent.trim().slice(0, 60)}`);
  }
  return found;
}"""


def test_every_view_has_names_and_contrast_in_both_themes(page):
    field(page, "pairs-count").fill("2")
    open_more(page)
    field(page, "steps").fill("0")
    page.locator("#spf-generate").click()
    expect(page.locator("#spf-steps .spf-field-problem")).to_be_visible()
    assert page.evaluate(NAMES_AND_CONTRAST) == []
    field(page, "steps").fill("20")
    generate(page, 1)
    tab(page, strings.TAB_TEACH)
    field(page, "count").fill("8")
    page.locator("#spf-teach-start").click()
    expect(page.locator("#spf-stages img")).to_have_count(3)
    for name in (strings.TAB_PORTRAIT, strings.TAB_INSPECT, strings.TAB_TEACH, strings.TAB_LIBRARY, strings.TAB_COMPARE,
                 strings.TAB_RESULTS):
        tab(page, name)
        for _ in range(2):
            page.get_by_role("button", name=strings.TOGGLE_THEME).click()
            page.wait_for_timeout(400)  # colours fade over
            assert page.evaluate(NAMES_AND_CONTRAST) == [], name


def test_the_keyboard_and_the_first_visit(page, service):
    expect(page.locator(".spf-guide")).to_be_visible()
    page.get_by_role("button", name=strings.GUIDE_DONE).click()
    expect(page.locator(".spf-guide")).to_be_hidden()
    field(page, "base-text").press("Control+Enter")
    drawn(page, 1)
    add_phrase(page, "a turban")
    drawn(page, 2)
    page.locator("h1").click()
    page.keyboard.press("Control+z")
    expect(page.locator(".spf-current")).to_contain_text("seed 3")
    page.keyboard.press("?")
    expect(page.locator(".spf-keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    expect(page.locator('[data-part="name"]')).to_contain_text("SFCM")
