"""Pages in headless Chromium: fixtures that open one, and that measure how it looks."""

import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOOK = Path(__file__).with_name("look.js").read_text()
IMAGES = Path(__file__).parents[1] / "docs" / "images"


@pytest.fixture
def browser_page():
    """A page of headless Chromium that records every request."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 860})
        page.requests, page.problems = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.append(message.text))
        yield page
        browser.close()


@pytest.fixture
def look_at():
    """Function that measures a page at 1280 and at 390 px, light and dark as the reader's system asks for.

    With SCREENSHOTS set, it keeps a picture of both widths in docs.
    """

    def look(page, name):
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 860})
                assert page.evaluate(LOOK) == [], f"{name} at {width} px, {scheme}"
                if scheme == "light" and "SCREENSHOTS" in os.environ:
                    keep_picture(page, f"{name}_{width}")

    return look


def keep_picture(page, name):
    """What a page shows, in docs/images."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(64).save(IMAGES / f"{name}.png", optimize=True)
