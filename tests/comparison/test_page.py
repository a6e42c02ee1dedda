"""The page, opened in a browser: nothing is asked of the network, nothing is wrong, all is there."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from .conftest import Lab

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=500,900",
    "--enable-logging=stderr",
    "--v=0",
)


@pytest.fixture(scope="session")
def browser() -> str:
    """A Chromium; without one a test is skipped, but in CI it fails."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        missing = f"the page is opened in a browser, and none of {', '.join(BROWSERS)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def opened(browser: str, page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document as the browser has it, and what it wrote to its console."""
    command = [browser, *OPTIONS, f"--user-data-dir={profile}", "--dump-dom", page.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


class Outline(HTMLParser):
    """Counts of tags, all ids, and all that the document points to."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def values(self, *names: str) -> list[str]:
        return [value for _, attributes in self.tags for name, value in attributes.items() if name in names and value]


@pytest.fixture
def page(lab: Lab, compare: Callable[..., tuple[Path, str]]) -> Path:
    lab.grid()
    lab.run("dpo", 0.4, 3, state="failed")
    return compare("method=dpo,cdpo,rdpo")[0] / "comparison.html"


def test_a_browser_shows_tables_and_figures_and_has_no_complaint(browser: str, page: Path, tmp_path: Path) -> None:
    document, complaints = opened(browser, page, tmp_path / "profile")
    assert complaints == []
    outline = Outline(document)
    figures = [svg for svg in outline.all("svg") if svg.get("role") == "img"]
    assert len(figures) == 5 and len(outline.all("table")) >= 8
    assert "0.711 ± 0.027" in document and "KL 1.10, n 3" in document and "n 3 of 4" in document


def test_a_long_name_leaves_room_for_numbers_on_a_small_screen(
    browser: str, lab: Lab, compare: Callable[..., tuple[Path, str]], tmp_path: Path
) -> None:
    for seed in (0, 1):
        lab.run("m" * 60, 0.2, seed, name=str(seed))
    page = compare("noise.rate=0.2")[0] / "comparison.html"
    measured = "document.querySelector('.numbers tbody th').offsetWidth / document.body.offsetWidth"
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text() + f"<script>document.body.id = 'wide-' + Math.round(100 * {measured})</script>")
    share = re.search(r'id="wide-(\d+)"', opened(browser, probed, tmp_path / "profile")[0])
    assert share is not None and 0 < int(share[1]) < 70


def test_a_complaint_would_be_noticed(browser: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><script>nowhere()</script>")
    assert opened(browser, bad, tmp_path / "profile")[1]


def test_the_page_is_one_file(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"@import|<script|url\((?!#)", text)
    pointed = Outline(text).values("src", "href", "xlink:href", "srcset")
    assert {value for value in pointed if not value.startswith("#")} == {"data:,"}


def test_the_page_is_well_formed_for_those_who_cannot_see_it(page: Path) -> None:
    outline = Outline(page.read_text())
    ids = outline.values("id")
    assert len(ids) == len(set(ids))
    pointed = [value[1:] for value in outline.values("href", "xlink:href") if value.startswith("#")]
    assert set(pointed) | set(outline.values("aria-labelledby")) <= set(ids)
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert all(header.get("scope") in ("col", "row") for header in outline.all("th"))
    assert len(outline.all("figcaption")) == len(outline.all("figure")) == 5
    assert outline.all("html") == [{"lang": "en"}] and len(outline.all("h1")) == 1


def test_what_runs_are_called_is_text_and_nothing_else(lab: Lab, compare: Callable[..., tuple[Path, str]]) -> None:
    lab.run("<b>bold</b>", 0.2, 0, name="bold")
    page = (compare("noise.rate=0.2")[0] / "comparison.html").read_text()
    assert "&lt;b&gt;bold" in page and "<b>" not in page
