"""The pages of measurements in a browser: whole, alone, and narrow enough for a phone."""

import shutil
from pathlib import Path

import pytest

from igpt_jax.cli import main

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
    pytest.mark.xdist_group("reconstruction"),  # which trains the same run
]

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
LOADED = "[...document.images].map(image => [image.naturalWidth, image.clientWidth])"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def report(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    few = ["--num-images", "16", "--batch-size", "8", "--out", str(out)]
    assert main(["evaluate", str(tiny_run), *few]) == 0
    assert main(["evaluate", str(tiny_run), "--measure", "generation", *few]) == 0
    return out / "report.html"


@pytest.fixture(scope="module")
def comparison(tiny_run, gan_run, vae_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    runs = [str(run) for run in (tiny_run, gan_run, vae_run)]
    assert main(["evaluate", "--compare", *runs, "--out", str(out), "--batch-size", "8"]) == 0
    return out / "compare.html"


@pytest.fixture(scope="module")
def browser(report, comparison):
    """After what trains: Playwright's event loop runs in this thread, and Orbax needs its own."""
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser, path, viewport):
    """A page with all that went wrong and all that it asked for."""
    page = browser.new_page(viewport=viewport)
    page.wrong, page.asked = [], []
    page.on("console", lambda message: page.wrong.append(message.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri(), wait_until="networkidle")
    return page


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(("name", "num_pictures"), [("report", 4), ("comparison", 4 * 16)])
def test_a_page_is_whole_and_alone(name, num_pictures, viewport, browser, request, tmp_path):
    alone = tmp_path / "page.html"  # nothing lies beside it
    shutil.copy(Path(request.getfixturevalue(name)), alone)
    page = opened(browser, alone, viewport)
    assert page.wrong == []
    elsewhere = [url for url in page.asked if not url.startswith("data:image/png;base64,")]
    assert elsewhere == [alone.as_uri()]
    pictures = page.evaluate(LOADED)
    assert len(pictures) == num_pictures
    assert all(natural > 0 for natural, _ in pictures)
    if name == "comparison":  # each is one picture
        assert min(shown for _, shown in pictures) >= 64
    needed, given = page.evaluate(WIDTHS)
    assert needed <= given
    rows = page.locator("table tbody tr").count()
    assert rows >= 10
    assert all(page.locator("table").nth(i).is_visible() for i in range(2 - (name != "report")))
    page.close()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_best_of_a_row_stands_out(viewport, browser, comparison):
    page = opened(browser, comparison, viewport)
    weights = "cells => cells.map(cell => getComputedStyle(cell).fontWeight)"
    assert set(page.locator("td.best").evaluate_all(weights)) == {"700"}
    assert set(page.locator("td.value:not(.best)").evaluate_all(weights)) == {"400"}
    first = page.locator(".ranking ol li:first-child")
    assert first.count() >= 4
    tops = "rows => rows.map(row => row.getBoundingClientRect().top)"
    faithful = page.locator(".ranking section").first.locator("li.best, li:not(.ideal)")
    assert faithful.evaluate_all(tops) == sorted(faithful.evaluate_all(tops))
    page.close()
