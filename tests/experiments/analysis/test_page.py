"""The microscope's page: whole in a browser, and its sentences right in every case."""

import html.parser
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis import page as pages
from experiments.analysis import snapshots
from jaxrnn import flow


class Page(html.parser.HTMLParser):
    """Every tag is closed, in order; ids are of one element; links lead to files."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links = [], [], []
        self.feed(text)
        assert not self.open and len(self.ids) == len(set(self.ids)) > 0

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta",):
            self.open.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [
            value for name, value in attributes if (tag, name) == ("a", "href")
        ]

    def handle_startendtag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole(recall_run):
    folder = recall_run / "microscope"
    page = Page((folder / "index.html").read_text())
    parts = [part.name for part in pages.PARTS]
    assert page.links == [f"{name}.csv" for name in parts] and set(parts) <= set(
        page.ids
    )
    assert all((folder / link).stat().st_size for link in page.links)


NAMES = "chromium", "chromium-browser", "google-chrome"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on the path")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(recall_run, width):
    """Nothing fails or is fetched from elsewhere; every figure is seen whole, its
    letters drawn."""
    api = pytest.importorskip("playwright.sync_api")
    page_file = (recall_run / "microscope" / "index.html").resolve()
    complaints, asked = [], []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        assert "under the microscope" in page.title()
        assert (
            page.locator("#summary")
            .inner_text()
            .startswith("Before training, an error")
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        figures = page.locator("figure > svg")
        assert figures.count() == len(pages.PARTS)
        for box, text, curves in (
            (
                f.bounding_box(),
                f.text_content() or "",
                f.locator("[id*=line2d] path").count(),
            )
            for f in figures.all()
        ):
            assert box["x"] >= 0 and 300 < box["width"] <= width and box["height"] > 80
            assert (
                any(label in text for label in ("step", "lag", "exponent"))
                and curves > 2
            )
        assert page.locator("#table tbody tr").count() == 3
        with page.expect_download() as download:
            page.locator("#profile a").click()
        text = Path(download.value.path()).read_text()
        assert text == (page_file.parent / "profile.csv").read_text()
        browser.close()
    assert not complaints and {url.partition(":")[0] for url in asked} == {"file"}


def snapshot(profile, step=0):
    norms = np.asarray(profile, float)
    return snapshots.Snapshot(step, norms, flow.memory_horizon(norms, snapshots.SHARE))


def anatomy(taken, missing=(1.0, 0.5, 0.2, 0.05), exponents=(-0.3, -0.4)):
    missing = np.array(missing)
    return snapshots.Anatomy(
        taken, missing, missing, np.array(exponents)[:, None], np.array([1.0, 2.0, 3.0])
    )


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (
            0.5 ** np.arange(20),
            "is multiplied by 0.5 per step in the long run, and less than 1% of it is "
            "left after 7 steps",
        ),
        (0.99 ** np.arange(20), "more than 1% of it is left after all 19 steps"),
        (1.5 ** np.arange(20), "is multiplied by 1.5 per step"),
        (
            [1.0, 0.0, 0.0, 0.0],
            "vanishes at once, and less than 1% of it is left after 1 steps",
        ),
        ([1.0, np.inf, np.inf, np.inf], "explodes beyond the range of floats"),
    ],
)
def test_what_is_said_of_an_error(tmp_path, profile, words):
    """Profiles of every kind are drawn, too, the warnings of a figure being errors."""
    taken = snapshot(profile)
    findings = snapshots.Findings("x", [taken], [anatomy(taken)], [], {})
    (sentence,) = pages._sentences(pages.PARTS[0], findings)
    assert words in sentence and sentence.startswith("Before training, ")
    for part in pages.PARTS[:2]:  # what depends on the profile
        part.draw(findings, tmp_path / f"{part.name}.svg")


def test_names_are_escaped_and_every_figure_has_its_sentence(tmp_path):
    taken = snapshot(0.5 ** np.arange(20))
    findings = snapshots.Findings("<run> & co", [taken], [anatomy(taken)], [], {})
    sentences = pages.write(findings, tmp_path)
    assert "an error on its way back" in sentences[0]
    assert "a backward pass of 3 steps would give" in sentences[1]
    assert "-0.300 nats per step: nearby states come together" in sentences[2]
    assert "less than 2 steps" in sentences[3]
    text = (tmp_path / "index.html").read_text()
    assert "&lt;run&gt; &amp; co" in text and "<run>" not in text
    Page(text)


def test_what_is_said_of_no_gradient_and_of_what_lasts(tmp_path):
    without = anatomy(
        snapshot(np.ones(4)), missing=[np.nan] * 4, exponents=(-0.2, -np.inf)
    )
    dead = without._replace(exponents=np.full((2, 1), -np.inf))
    findings = snapshots.Findings("x", [without.snapshot], [without, dead], [9], {})
    sentences = pages.write(findings, tmp_path)
    assert sentences[0] == "After 9 steps the gradient was 0 or not finite."
    assert "the gradient of the recurrent matrix is 0 or not finite" in sentences[3]
    lasts = "-0.200 nats per step: along that direction, differences and gradients last"
    assert f"{lasts} over 4 steps" in sentences[5]
    assert "is not finite: a step loses every direction" in sentences[6]
    text = (tmp_path / "index.html").read_text()
    assert sentences[0] in text and "not within 3" in text


def test_what_is_said_of_chaos_and_of_gradients_that_need_all_steps():
    taken = snapshot(np.ones(4), step=7)
    found = anatomy(taken, missing=(1.0, 1.0, 0.9, 0.5), exponents=(0.3, -np.inf))
    findings = snapshots.Findings("x", [taken], [found], [], {})
    sentences = [s for part in pages.PARTS for s in pages._sentences(part, findings)]
    assert all(s.startswith("After 7 steps of training, ") for s in sentences)
    assert "no backward pass shorter than all 4 steps" in sentences[1]
    assert "0.300 nats per step: nearby states part, and gradients" in sentences[2]
