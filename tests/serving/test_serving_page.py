"""The page in a browser, Debian's Chromium, with a server that listens and a trained model."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from serving_help import live, make_service, until

CHROMIUM = os.environ.get("IGPT_TEST_CHROMIUM") or shutil.which("chromium")
LONG = 30_000  # milliseconds: other jobs may run beside the test
HOSTILE = "<img src=x onerror=document.title=1> \u202eab"  # what the captions have room for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
    pytest.mark.xdist_group("page"),
]
playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser(tiny_run, asked_run):
    """After what trains: Playwright's event loop runs in this thread, and Orbax needs its own."""
    with playwright.sync_playwright() as started:
        # Its own sandbox does not run as root; the page is ours.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def serving(folder, *runs):
    """The URL of `igpt serve`, in a process of its own, ready to draw."""
    from igpt_jax.serving.client import Client

    command = [
        sys.executable, "-c", "import sys; from igpt_jax.cli import main; sys.exit(main())",
        "serve", *map(str, runs), "--port", "0", "--database", f"sqlite:///{folder}/igpt.db",
        "--files", f"{folder}/files", "--batch-size", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as ran:
        try:
            url = ran.stdout.readline().removeprefix("serving at ").strip()
            with Client(url, timeout=60.0) as client:
                until(lambda: client._http.get("/readyz").status_code == 200, 400)
            yield url
        finally:
            ran.send_signal(signal.SIGTERM)
            ran.wait(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def served(tiny_run, asked_run, folder):
    with serving(folder, tiny_run, asked_run) as url:
        yield url


@contextlib.contextmanager
def visit(browser, url, *, expects=(), **settings):
    """A page that asks no other host, and whose console tells only what is expected."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
    told, hosts = [], set()
    context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page = context.new_page()
    page.set_default_timeout(LONG)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on(
        "console",
        lambda line: told.append(line.text) if line.type in ("error", "warning") else None,
    )
    try:
        page.goto(url)
        yield page
        surprises = [line for line in told if not any(text in line for text in expects)]
        assert surprises == []
        assert hosts - {"", urlsplit(url).netloc} == set()  # "" is of blob: and data:
    finally:
        context.close()


def shown_pixels(page, selector):
    """What an <img> shows, uint8 [h w 3]."""
    script = """async (image) => {
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
      const ink = canvas.getContext("2d");
      ink.drawImage(image, 0, 0);
      return [canvas.height, canvas.width,
        ...ink.getImageData(0, 0, canvas.width, canvas.height).data];
    }"""
    height, width, *values = page.locator(selector).first.evaluate(script)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def pixels(data):
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def watch_growth(page):
    """Notes, from now on, what becomes of jobs, in their order."""
    page.evaluate("""() => {
      window.noted = [];
      const look = () => {
        for (const image of document.querySelectorAll(".growing img:not([hidden])")) {
          if (window.noted.at(-1) !== image.src) window.noted.push(image.src);
        }
        if (document.querySelector("[data-state]") && window.noted.at(-1) !== "end") {
          window.noted.push("end");
        }
      };
      new MutationObserver(look).observe(document.body,
        { subtree: true, childList: true, attributes: true });
    }""")


def draw(page, prompt=None, label=None, seed=None, n=1):
    page.wait_for_selector("#draw-form [name=n]")
    if prompt is not None:
        page.fill("#draw-form [name=prompt]", prompt)
    if label is not None:
        page.select_option("#draw-form [name=label]", str(label))
    if seed is not None:
        page.click("#draw-form summary")
        page.fill("#draw-form [name=seed]", str(seed))
    page.fill("#draw-form [name=n]", str(n))
    page.click("#draw-form button.main")


def wait_for_end(page, area="#draw-jobs"):
    page.wait_for_selector(f"{area} article:first-child[data-state=done] img")


def test_draw_find_and_draw_again(browser, served):
    with visit(browser, served) as page:
        watch_growth(page)
        draw(page, label=7, seed=3, n=8)  # the last of them begin when all is connected
        wait_for_end(page)
        *previews, end = page.evaluate("window.noted")
        assert end == "end"
        assert len(set(previews)) >= 1
        assert all(preview.startswith("data:image/webp") for preview in previews)

        page.click("#tabs a[href='#gallery']")
        page.fill("#search-text", "nothing at all")
        page.press("#search-text", "Enter")
        page.wait_for_selector("#pictures li.hint")
        page.fill("#search-text", "")
        page.fill("#search-label", "7")
        page.press("#search-label", "Enter")
        page.wait_for_selector("#pictures button img")
        page.click("#pictures button >> nth=0")
        page.wait_for_selector("#details-body img[src^=blob]")
        told = page.inner_text("#details-body")
        assert "Seed\n3" in told.replace("\t", "\n")

        found = page.request.get(f"{served}v1/pictures?label=7").json()["pictures"]
        assert len(found) == 8
        stored = pixels(page.request.get(served + found[0]["url"].lstrip("/")).body())
        np.testing.assert_array_equal(shown_pixels(page, "#details-body img"), stored)

        page.click("#details-body [data-t=again]")
        page.wait_for_selector("#draw:not([hidden])")
        wait_for_end(page)
        newest = page.request.get(f"{served}v1/pictures?limit=1").json()["pictures"][0]
        assert newest["label"] == 7
        assert newest["seed"] != 3
        shown = shown_pixels(page, "#draw-jobs article:first-child img")
        again = pixels(page.request.get(served + newest["url"].lstrip("/")).body())
        np.testing.assert_array_equal(shown, again)

        page.once("dialog", lambda dialog: dialog.accept())
        page.click("#draw-jobs article:first-child button >> nth=0")
        page.click("#details-body [data-t=remove]")
        page.wait_for_selector("#status:has-text('Deleted')")
        assert page.request.get(f"{served}v1/pictures/{newest['id']}").status == 404


def test_complete_with_the_brush(browser, served, folder):
    half = np.zeros((32, 32, 3), np.uint8)
    half[:] = np.arange(0, 256, 8)[:, None, None]
    with visit(browser, served + "#complete") as page:
        page.wait_for_selector("#complete-form:not([hidden])")
        file = {"name": "half.png", "mimeType": "image/png", "buffer": png(half)}
        page.set_input_files("#complete-file", file)
        page.wait_for_selector("#canvas")
        page.click("#complete-form button.main")
        page.wait_for_selector("#status.bad:has-text('Paint over')")
        box = page.locator("#canvas").bounding_box()
        at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * 0.9) for x in (0.05, 0.95)]
        page.mouse.move(*at[0])
        page.mouse.down()
        page.mouse.move(*at[1], steps=5)
        page.mouse.up()
        page.fill("#complete-form [name=n]", "2")
        page.click("#complete-form button.main")
        wait_for_end(page, "#complete-jobs")
        newest = page.request.get(f"{served}v1/pictures?limit=1").json()["pictures"][0]
        [mask] = folder.glob(f"files/inputs/*/{newest['job']}-mask.png")
        rows = (pixels(mask.read_bytes()) > 127).mean((1, 2))  # of each, what is drawn anew
        assert (rows[: len(rows) // 2] == 0).all()
        assert rows[len(rows) * 9 // 10] > 0.8
        first, second = (
            shown_pixels(page, f"#complete-jobs li:nth-child({i}) img").astype(int) for i in (1, 2)
        )
        assert (first[26:] != second[26:]).mean() > 0.3


def test_classify_by_drop(browser, served):
    with visit(browser, served + "#classify") as page:
        page.wait_for_selector("#classify-panel:not([hidden])")
        page.select_option("#model", index=1)
        assert page.locator("#classify-panel").is_hidden()  # a model of captions alone
        page.click("#classify-none button")
        data = list(png(np.full((32, 32, 3), 90, np.uint8)))
        dropped = page.evaluate_handle(
            """(bytes) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "x.png", { type: "image/png" }));
              return data;
            }""",
            data,
        )
        page.dispatch_event("#classify-drop", "drop", {"dataTransfer": dropped})
        page.wait_for_selector("#classify-result tbody tr")
        rows = page.locator("#classify-result tbody tr")
        assert rows.count() == 5
        shares = [float(text.rstrip("%")) for text in page.locator("td.share").all_inner_texts()]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 100.5


def test_hostile_texts_are_texts(browser, served):
    with visit(browser, served, expects=["422"]) as page:
        page.select_option("#model", index=1)
        draw(page, prompt=HOSTILE)
        wait_for_end(page)
        assert page.inner_text("#draw-jobs .what") == HOSTILE
        page.click("#tabs a[href='#gallery']")
        page.fill("#search-text", "onerror")
        page.press("#search-text", "Enter")
        page.wait_for_selector("#pictures bdi:has-text('onerror')")
        page.click("#pictures button >> nth=0")
        assert page.inner_text("#details-title") == HOSTILE
        assert page.locator("img[src=x]").count() == 0
        assert page.title() != "1"
        page.keyboard.press("Escape")
        page.click("#tabs a[href='#draw']")
        page.fill("#draw-form [name=prompt]", "bell \x07 end")
        page.click("#draw-form button.main")
        page.wait_for_selector("#status.bad:has-text('control characters')")


def test_by_keyboard_alone(browser, served):
    def tab_to(page, selector):
        for _ in range(40):
            if page.evaluate("(it) => document.activeElement?.matches(it)", selector):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"Tab does not come to {selector}")

    with visit(browser, served) as page:
        page.wait_for_selector("#draw-form [name=n]")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        tab_to(page, "#draw-form [name=label]")
        page.keyboard.type("42")
        tab_to(page, "#draw-form [name=n]")
        page.keyboard.press("Control+A")
        page.keyboard.type("1")
        page.keyboard.press("Enter")
        wait_for_end(page)
        tab_to(page, "#draw-jobs button")
        page.keyboard.press("Enter")
        page.wait_for_selector("#details[open]")
        assert "42" in page.inner_text("#details-title")
        page.keyboard.press("Escape")
        page.wait_for_selector("#details", state="hidden")
        page.goto(served + "#complete")
        file = {
            "name": "x.png",
            "mimeType": "image/png",
            "buffer": png(np.full((8, 8, 3), 9, "u1")),
        }
        page.set_input_files("#complete-file", file)
        page.wait_for_selector("#canvas:focus")
        for key in ("ArrowDown", "Space", "ArrowRight", "Space"):
            page.keyboard.press(key)
        tab_to(page, "#complete-form [name=n]")
        page.keyboard.press("Control+A")
        page.keyboard.type("1")
        page.keyboard.press("Enter")
        wait_for_end(page, "#complete-jobs")


def test_phone_and_chinese(browser, served):
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with visit(browser, served, locale="zh-CN", color_scheme="dark", **phone) as page:
        page.wait_for_selector("#draw-form [name=n]")
        assert page.inner_text("#draw-title") == "想画什么？"
        assert page.evaluate("document.documentElement.lang") == "zh-Hans"
        draw(page)
        wait_for_end(page)
        assert page.locator("#draw-jobs article").first.bounding_box()["y"] < 844 - 100
        page.tap("#draw-jobs button >> nth=0")
        page.wait_for_selector("#details[open]")
        page.tap("#details-close")
        for part in ("draw", "complete", "classify", "gallery"):
            page.tap(f"#tabs a[href='#{part}']")
            page.wait_for_selector(f"#{part}:not([hidden])")
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            texts = page.inner_text("body")
            assert "undefined" not in texts
        small = page.evaluate("""() => [...document.querySelectorAll("button, nav a, select")]
          .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 38)
          .map((one) => one.outerHTML)""")
        assert small == []
        page.tap("#language")
        assert page.inner_text("#gallery-title") == "What was made"


def test_a_job_goes_on_when_the_page_is_loaded_again(browser, served):
    with visit(browser, served) as page:
        page.wait_for_selector("#draw-form [name=n]")
        page.fill("#draw-form [name=n]", "16")
        page.click("#draw-form button.main")
        page.wait_for_selector("#draw-jobs article")
        page.reload()
        wait_for_end(page)
        assert page.locator("#draw-jobs article:first-child li img").count() == 16


def test_errors_are_told(browser, tmp_path):
    """Keys, a full queue and a server that is gone; nothing is drawn, so no model is needed."""
    service = make_service(tmp_path, hosts=(), requires_keys=True, max_waiting=4)
    _, key = service.keyring.add("Ada", per_minute=0)
    painter = service.models["cards"].painter
    expects = ["401", "429", "ERR_"]  # the browser's own lines
    with live(service) as url, visit(browser, url, expects=expects) as page:
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "igpt_wrong")
        page.press("#key", "Enter")
        page.wait_for_selector("#key-wrong:has-text('does not know')")
        page.fill("#key", key)
        page.press("#key", "Enter")
        draw(page)
        wait_for_end(page)
        painter.gate.clear()
        try:
            for _ in range(9):  # the engine takes some of what waits
                draw(page, n=4)
                page.wait_for_timeout(200)
            page.wait_for_selector("#status.bad:has-text('Too much waits')")
            page.click("#draw-jobs [data-t=stop] >> nth=0")
            page.wait_for_selector("#draw-jobs .state.bad:has-text('cancelled')")
        finally:
            painter.gate.set()
        playwright.expect(page.locator("#draw-jobs [data-t=stop]")).to_have_count(0, timeout=LONG)
        page.route("**/v1/generate", lambda route: route.abort())
        draw(page)
        page.wait_for_selector("#status.bad:has-text('does not answer')")
