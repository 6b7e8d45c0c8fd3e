"""The pages run, the site builds, and a browser shows it."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

import jaxrnn

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = "chromium", "chromium-browser", "google-chrome"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


class Block(NamedTuple):
    """A block of Python on a page, and what stands in the comment above it."""

    code: str
    line: int
    needs: tuple[str, ...]
    not_run: bool


def blocks(text: str) -> list[Block]:
    """Returns the blocks of a page, in order.

    The comment `<!-- needs: torch, flax -->` above a block names packages without which
    it is skipped; `<!-- not run: reason -->` says why it is never run.
    """
    pattern = r"(?:<!-- (needs|not run): ([^>]*) -->\n+)?```python\n(.*?)```"
    found = []
    for match in re.finditer(pattern, text, re.DOTALL):
        kind, words, code = match.groups()
        needs = tuple(words.split(", ")) if kind == "needs" else ()
        line = text.count("\n", 0, match.start(3))
        found.append(Block(code, line, needs, kind == "not run"))
    return found


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


RUN = [page for page in PAGES if blocks(page.read_text())]


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("page", RUN, ids=label)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page, in order, in one namespace: a page tells one story."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    names = {"__name__": page.stem}
    for block in blocks(page.read_text()):
        missing = [n for n in block.needs if importlib.util.find_spec(n) is None]
        if block.not_run or missing:
            continue
        padded = "\n" * block.line + block.code  # so that errors name the page's line
        with warnings.catch_warnings():
            if block.needs:  # other libraries' warnings are not ours
                warnings.simplefilter("ignore")
            exec(compile(padded, str(page), "exec"), names)


def test_what_stands_above_a_block_is_read():
    text = "a\n<!-- needs: x, y -->\n```python\n1\n```\n<!-- not run: z -->\n\n"
    first, second, third = blocks(text + "```python\n2\n```\n```python\n3\n```\n")
    assert first == Block("1\n", 3, ("x", "y"), False)
    assert second.not_run and not second.needs
    assert third == Block("3\n", 11, (), False)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_figure_has_its_command(page):
    text = page.read_text()
    for match in re.finditer(r"!\[[^]]*\]\([^)]+\)", text):
        near = text[max(match.start() - 1500, 0) : match.end() + 1500]
        assert re.search(r"python -m [a-z]|make [a-z]", near), match[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it."""
    pytest.importorskip("mkdocs")
    return build(ROOT, tmp_path_factory.mktemp("site"))


def build(root: Path, into: Path) -> Path:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(into)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return into


def test_every_public_name_has_one_place(site):
    pages = [path.read_text() for path in (site / "api").glob("*.html")]
    shown = [name for page in pages for name in re.findall(r'<h2 id="([\w.]+)"', page)]
    assert len(shown) == len({*shown})
    modules = [n for n in jaxrnn.__all__ if hasattr(getattr(jaxrnn, n), "__file__")]
    names = {f"jaxrnn.{n}" for n in jaxrnn.__all__ if n not in modules}
    for module in modules:
        defined = vars(getattr(jaxrnn, module)).items()
        names |= {
            f"jaxrnn.{module}.{name}"
            for name, value in defined
            if not name.startswith("_")
            and isinstance(value, type | types.FunctionType)
            and value.__module__ == f"jaxrnn.{module}"
        }
    assert names <= {*shown}
    assert {f"{path.stem}" for path in (site / "api").glob("*.html")} == {
        "jaxrnn",
        *(f"jaxrnn.{m}" for m in modules),
    }


FAULTS = {
    "a link": ("docs/grid.md", "\n[x](nowhere.md)\n", "nowhere.md"),
    "an anchor": ("docs/grid.md", "\n[x](states.md#nowhere)\n", "#nowhere"),
    "a file": ("docs/grid.md", "\n[x](../nowhere.py)\n", "nowhere.py"),
    "a page": ("docs/lost.md", "# Lost\n", "lost.md"),
    "a docstring": ("jaxrnn/losses.py", "\ndef silent():\n    return 1\n", "silent"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_build(fault, tmp_path):
    pytest.importorskip("mkdocs")
    for name in ("docs", "jaxrnn", "benchmarks", "experiments", "examples", "configs"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, tmp_path / name)
    for name in (
        "mkdocs.yml",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
    ):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    build(tmp_path, tmp_path / "site")
    path, text, words = FAULTS[fault]
    with (tmp_path / path).open("a") as file:
        file.write(text)
    with pytest.raises(AssertionError, match=words):
        build(tmp_path, tmp_path / "site")


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on the path")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(site, width):
    api = pytest.importorskip("playwright.sync_api")
    complaints: list[str] = []
    asked: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for path in sorted(site.rglob("*.html")):
            if path.name == "404.html":
                continue
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.locator("h1").first.is_visible(), path
            for image in page.locator("article img").all():
                assert image.evaluate("i => i.complete && i.naturalWidth > 0"), path
        # Mathematics is drawn, and the search finds a page.
        page.goto((site / "derivation.html").as_uri())
        assert page.locator("math mfrac").count() > 3
        if width > 1000:
            page.locator("input.md-search__input").click()
            page.keyboard.type("lyapunov_spectrum")
            page.locator(".md-search-result__link").first.wait_for()
        browser.close()
    assert not complaints and {url.partition(":")[0] for url in asked} == {"file"}
