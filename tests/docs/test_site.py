"""The documentation as a site: built strictly, every link and anchor followed, and the same links on a code host."""

import logging
import os
import re
import shutil
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.browser import LOOK, keep_picture

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "data/README.md", "ckpt/README.md")
PAGES = [*(ROOT / name for name in (*OUTSIDE, "examples/README.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.S | re.M)


class Page(HTMLParser):
    """Ids and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found.get("id"), found.get("name")}
        self.links += [found[name] for name in ("href", "src") if found.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built of the tree; a warning ends the build."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        counter = Warnings()
        logging.getLogger("mkdocs").addHandler(counter)
        build(config)
        logging.getLogger("mkdocs").removeHandler(counter)
    assert counter.said == []
    yield folder
    shutil.rmtree(folder)


class Warnings(logging.Handler):
    """What mkdocs warns of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


@pytest.mark.integration
def test_every_link_of_the_site_leads_somewhere(site):
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 25
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                if parts.scheme in ("http", "https") and not re.fullmatch(r"[\w.:-]+", parts.netloc):
                    wrong.append((path.name, link))
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                wrong.append((str(path.relative_to(site)), link))
    assert wrong == []


@pytest.mark.integration
def test_nothing_is_fetched_from_elsewhere(site):
    loaded = re.compile(r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?:[^\"]+)")
    for path in site.rglob("*.html"):
        assert [link for link in loaded.findall(path.read_text()) if 'rel="canonical' not in link] == [], path


@pytest.mark.integration
def test_the_api_has_what_the_docstrings_say(site):
    text = (site / "api.html").read_text()
    for name in ("internvl_chat.model.loading.load_model", "internvl_chat.run.trainer.MultimodalDPOTrainer"):
        assert f'id="{name}"' in text


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, format, *args):
        pass


@pytest.fixture
def address(site):
    """Where the site is served: its search asks for a file, which no browser gives to a page from a disk."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"  # nothing is on its way


def look(page, address, width):
    """What is wrong with how a page looks at a width."""
    page.set_viewport_size({"width": width, "height": 860})
    page.goto(address)
    page.add_style_tag(content=STILL)
    return page.evaluate(LOOK)


@pytest.mark.integration
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_chromium_shows_the_start_page(address, browser_page, scheme):
    browser_page.emulate_media(color_scheme=scheme)
    for width in (1280, 390):
        assert look(browser_page, address, width) == []
        if scheme == "light" and "SCREENSHOTS" in os.environ:
            keep_picture(browser_page, f"docs_{width}")
    ground = browser_page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    browser_page.locator("header label[for=__drawer]").click()  # the menu of a phone lies over the page
    browser_page.locator("label.md-nav__link", has_text="The first hour").click()
    browser_page.get_by_role("link", name="One GPU").first.wait_for()
    browser_page.mouse.move(380, 850)  # away from what would be coloured as pointed at
    assert [problem for problem in browser_page.evaluate(LOOK) if "contrast" in problem] == []
    assert browser_page.problems == [] and all(url.startswith(address) for url in browser_page.requests)


@pytest.mark.integration
@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 390)])
def test_chromium_shows_every_page(site, address, browser_page, scheme, width):
    """No page scrolls sideways, on a screen or a phone, and no text lies over another or is too faint to read."""
    browser_page.emulate_media(color_scheme=scheme)
    names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    looks = {name: look(browser_page, address + name, width) for name in names}
    assert {name: found for name, found in looks.items() if found} == {} and browser_page.problems == []


def headings(path):
    """Anchors that a code host gives the headings of a page."""
    for line in FENCED.sub("", path.read_text()).splitlines():
        if line.startswith("#"):
            words = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", line.lstrip("# ")).lower()
            yield re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_same_links_work_on_a_code_host(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            assert re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]{2,}(/\S*)?", link), link
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in set(headings(target)), link


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_issue_forms_are_whole(path):
    form = yaml.safe_load(path.read_text())
    if path.name != "config.yml":
        ids = [field["id"] for field in form["body"]]
        assert form["name"] and form["description"] and len(set(ids)) == len(ids)
        assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in form["body"])


def test_the_citation_names_the_version():
    from internvl_chat import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert "2411.10442" in citation["preferred-citation"]["url"]
