"""The microscope: its numbers against the library's own, its page in a real browser."""

import csv
import html.parser
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from experiments import microscope, microscope_page, profiles, run, sweep, trained
from jaxrnn import flow

TINY = [
    "model.hidden_size=8",
    "optimizer.batch_size=8",
    "optimizer.steps=20",
    "evaluations=2",
]


def trained_run(folder, config, *settings):
    arguments = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    assert run.main([f"configs/{config}.toml", *arguments, "--runs", str(folder)]) == 0
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def lstm_run(tmp_path_factory):
    """A run that the microscope has looked at."""
    folder = trained_run(tmp_path_factory.mktemp("lstm"), "recall/lstm", "lag=12")
    assert microscope.main([str(folder)]) == 0
    return folder


def read(folder, name):
    with (folder / "microscope" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_numbers_are_the_library_s(lstm_run):
    """Of the last checkpoint, computed here once more."""
    _, task, saved = trained.load(lstm_run)
    assert list(saved) == [0, 10, 20]
    params = saved[20]
    xs, loss = task.probe(params)
    norms = flow.adjoint_profile(loss, jaxrnn.lstm, params.cell, None, xs).mean(axis=1)
    shown = [float(x["norm"]) for x in read(lstm_run, "profile") if x["step"] == "20"]
    np.testing.assert_allclose(shown, norms, rtol=1e-5)

    gradient = jax.grad(lambda cell: loss(*jaxrnn.unroll(jaxrnn.lstm, cell, None, xs)))(
        params.cell
    )
    terms = flow.lag_gradients(loss, jaxrnn.lstm, params.cell, None, xs).w_hh
    contributions = [x for x in read(lstm_run, "contributions") if x["step"] == "20"]
    for lag in (0, 5, 12):
        of = jnp.linalg.norm(terms[lag]) / jnp.linalg.norm(gradient.w_hh)
        np.testing.assert_allclose(
            float(contributions[lag]["contribution"]), of, rtol=1e-4
        )
        cut = gradient.w_hh - terms[:lag].sum(axis=0)
        missing = jnp.linalg.norm(cut) / jnp.linalg.norm(gradient.w_hh)
        np.testing.assert_allclose(
            float(contributions[lag]["missing_from_here"]),
            missing,
            rtol=1e-3,
            atol=1e-6,
        )

    first = flow.lyapunov_spectrum(
        jaxrnn.lstm, params.cell, None, xs[:, 3], 16, transient=6
    )
    shown = [
        x
        for x in read(lstm_run, "spectrum")
        if (x["step"], x["sequence"]) == ("20", "3")
    ]
    np.testing.assert_allclose(
        [float(x["nats_per_step"]) for x in shown], first, atol=1e-3
    )


def test_time_constants_of_gates_that_are_known():
    """No recurrent weights, no input: every gate is σ(b), whose memory falls to 1/e in -1/log σ(b)
    steps."""
    xs = jnp.zeros((9, 2, 3))
    for cell, gate in ((jaxrnn.lstm, 1), (jaxrnn.gru, 1)):
        params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 3, 4))
        b = params.b.reshape(-1, 4).at[gate].set(jnp.array([0.0, 1.0, 2.0, 5.0]))
        params = params._replace(b=b.ravel())
        holds = microscope.time_constants(cell, params, xs)
        np.testing.assert_allclose(
            holds, 1 / np.log1p(np.exp([-0.0, -1, -2, -5])), rtol=1e-5
        )
        assert np.isclose(holds[0], 1 / np.log(2))
    elman = jaxrnn.elman.init(jax.random.key(0), 3, 4)
    assert microscope.time_constants(jaxrnn.elman, elman, xs).size == 0


def test_time_constants_are_those_of_the_cell_s_own_gates():
    """The LSTM's step leaves its gates behind; the GRU's z is what of h[t-1] stands in h[t]."""
    xs = jax.random.normal(jax.random.key(1), (7, 5, 3))
    params = jaxrnn.lstm.init(jax.random.key(0), 3, 4)
    state, logs = jaxrnn.lstm.initial_state(params, (5,)), []
    for x in xs:
        state, gates = jaxrnn.lstm.step(params, state, jaxrnn.lstm.drive(params, x))
        logs.append(jnp.log(gates[:, 4:8]))
    holds = microscope.time_constants(jaxrnn.lstm, params, xs)
    np.testing.assert_allclose(
        holds, -1 / jnp.mean(jnp.stack(logs), axis=(0, 1)), rtol=1e-4
    )

    params = jaxrnn.gru.init(jax.random.key(0), 3, 4)
    state, logs = jaxrnn.gru.initial_state(params, (5,)), []
    for x in xs:
        u = jaxrnn.gru.drive(params, x)
        q = state.h @ params.w_hh
        r = jax.nn.sigmoid(u[:, :4] + q[:, :4])
        n = jnp.tanh(u[:, 8:] + r * (q[:, 8:] + params.b_hn))
        after, _ = jaxrnn.gru.step(params, state, u)
        logs.append(jnp.log((after.h - n) / (state.h - n)))
        state = after
    holds = microscope.time_constants(jaxrnn.gru, params, xs)
    np.testing.assert_allclose(
        holds, -1 / jnp.mean(jnp.stack(logs), axis=(0, 1)), rtol=1e-3
    )


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


def test_the_page_is_whole(lstm_run):
    folder = lstm_run / "microscope"
    page = Page((folder / "index.html").read_text())
    parts = [part.name for part in microscope_page.PARTS]
    assert page.links == [f"{name}.csv" for name in parts] and set(parts) <= set(
        page.ids
    )
    assert all((folder / link).stat().st_size for link in page.links)


NAMES = "chromium", "chromium-browser", "google-chrome"
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on the path")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(lstm_run, width):
    """Nothing fails or is fetched from elsewhere; every figure is seen whole, its letters drawn."""
    api = pytest.importorskip("playwright.sync_api")
    page_file = (lstm_run / "microscope" / "index.html").resolve()
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
        assert figures.count() == len(microscope_page.PARTS)
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
    return microscope.Snapshot(
        step, norms, flow.memory_horizon(norms, microscope.SHARE)
    )


def anatomy(of, missing=(1.0, 0.5, 0.2, 0.05), exponents=(-0.3, -0.4)):
    missing = np.array(missing)
    return microscope.Anatomy(
        of, missing, missing, np.array(exponents)[:, None], np.array([1.0, 2.0, 3.0])
    )


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (
            0.5 ** np.arange(20),
            "is multiplied by 0.5 a step in the long run; after 7 steps ",
        ),
        (0.99 ** np.arange(20), "more than 1% of it is left after all 19 steps"),
        (1.5 ** np.arange(20), "is multiplied by 1.5 a step"),
        ([1.0, 0.0, 0.0, 0.0], "vanishes at once; after 1 steps less than 1%"),
        ([1.0, np.inf, np.inf, np.inf], "explodes beyond the range of floats"),
    ],
)
def test_what_the_page_says_of_an_error(tmp_path, profile, words):
    """Profiles of every kind are drawn, too, the warnings of a figure being errors."""
    of = snapshot(profile)
    findings = microscope.Findings("<run> & co", [of], [anatomy(of)], [])
    said = microscope_page.write(findings, tmp_path)
    assert words in said[0] and said[0].startswith("Before training, ")
    assert "a backward pass of 3 steps would give" in said[1]
    assert "-0.300 nats a step: nearby states come together" in said[2]
    assert "less than 2 steps" in said[3]
    text = (tmp_path / "index.html").read_text()
    assert "&lt;run&gt; &amp; co" in text and "<run>" not in text
    Page(text)


def test_what_the_page_says_of_no_gradient_and_of_what_lasts(tmp_path):
    of = anatomy(snapshot(np.ones(4)), missing=[np.nan] * 4, exponents=(-0.2, -np.inf))
    dead = of._replace(exponents=np.full((2, 1), -np.inf))
    said = microscope_page.write(
        microscope.Findings("x", [of.snapshot], [of, dead], [9]), tmp_path
    )
    assert said[0] == "After 9 steps the gradient was 0 or not finite."
    assert "the gradient of the recurrent matrix is 0, or not finite" in said[3]
    assert (
        "-0.200 nats a step: over 4 steps, what differs along that direction lasts"
        in said[5]
    )
    assert "is not finite: a step loses every direction" in said[6]
    text = (tmp_path / "index.html").read_text()
    assert said[0] in text and "not within 3" in text


def test_checkpoints_without_a_gradient_are_left_out(lstm_run):
    _, task, params = trained.load(lstm_run)
    params[10] = jax.tree.map(lambda a: a * np.nan, params[10])
    assert [s.step for s in microscope.snapshots(task, params)] == [0, 20]
    params = {step: jax.tree.map(jnp.zeros_like, p) for step, p in params.items()}
    with pytest.raises(ValueError, match="0 or not finite at every checkpoint"):
        microscope.snapshots(task, params)
    short = task._replace(
        probe=lambda p: task.probe(p)._replace(xs=task.probe(p).xs[:3])
    )
    with pytest.raises(ValueError, match="it takes sequences of 4 steps"):
        microscope.snapshots(short, params)


def test_what_the_page_says_of_chaos_and_of_gradients_that_need_all_steps(tmp_path):
    of = snapshot(np.ones(4), step=7)
    of = anatomy(of, missing=(1.0, 1.0, 0.9, 0.5), exponents=(0.3, -np.inf))
    said = microscope_page.write(
        microscope.Findings("x", [of.snapshot], [of], []), tmp_path
    )
    assert all(sentence.startswith("After 7 steps of training, ") for sentence in said)
    assert "no backward pass shorter than all 4 steps" in said[1]
    assert "0.300 nats a step: nearby states part, and gradients explode" in said[2]


@pytest.mark.parametrize("config", ["recall_lstm", "classical/adding_100_irnn"])
def test_other_experiments(tmp_path, config):
    """A stream in windows; a cell without gates, whose units can die."""
    shorter = "length=20" if "adding" in config else "lag=6"
    folder = trained_run(tmp_path, config, shorter)
    assert microscope.main([str(folder)]) == 0
    gates = folder / "microscope" / "gates.csv"
    assert gates.exists() == ("lstm" in config)
    Page((folder / "microscope" / "index.html").read_text())


def test_what_is_no_run(tmp_path, capsys):
    assert microscope.main([str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert profiles.main([str(tmp_path)]) == 2
    assert "sweep.json" in capsys.readouterr().err


def test_profiles_of_a_sweep(tmp_path, capsys):
    """An identity network with a spectral radius: the error is multiplied by it at every step."""
    arguments = [
        "configs/recall/elman_tanh.toml",
        "--over",
        "model.spectral_radius=0.5 1.5",
    ]
    arguments += [
        "--over",
        "seed=0 1",
        "--set",
        "model.activation=identity",
        "--set",
        "lag=12",
    ]
    arguments += ["--set", "optimizer.steps=0", "--set", "model.hidden_size=8"]
    assert sweep.main([*arguments, "--runs", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    capsys.readouterr()
    assert profiles.main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "| 0.5 | 0.500 ± 0.000 |" in said and "| 1.5 | 1.500 ± 0.000 |" in said
    assert "| 0.5 | 7.000 ± 0.000 |" in said  # 2⁻⁷ < 1 %
    assert (folder / "profiles.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "profiles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 13 and {x["checkpoint"] for x in rows} == {
        "before training"
    }


def test_profiles_before_training_and_after_it(tmp_path, capsys):
    """Each against the snapshots of that checkpoint; a run that failed is left out."""
    arguments = [
        "configs/recall/gru.toml",
        "--quick",
        "--set",
        "lag=6",
        "--over",
        "seed=0 1",
    ]
    assert sweep.main([*arguments, "--runs", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    index = json.loads((folder / sweep.INDEX).read_text())
    index[1][1][1] = {}  # the second run's results
    (folder / sweep.INDEX).write_text(json.dumps(index))
    capsys.readouterr()
    assert profiles.main([str(folder)]) == 0
    said = capsys.readouterr().out
    _, task, params = trained.load(folder / index[1][0][2])
    for when, step in (("before training", 0), ("after training", 20)):
        (of,) = microscope.snapshots(task, {step: params[step]})
        assert f"factor per step, {when} |\n| --- |\n| {of.horizon.rate:.3f} |" in said
    with (folder / "profiles.csv").open() as file:
        assert [x["checkpoint"] for x in csv.DictReader(file)] == [
            *["before training"] * 7, *["after training"] * 7
        ]  # fmt: skip
