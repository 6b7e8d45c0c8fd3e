"""The experiments as a user runs them: small, on text of their own, from the command line."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from experiments import (
    checkpoint,
    classify_vowels,
    generate,
    language_model,
    microscope,
    models,
    record,
    run,
    schema,
    task,
    train_language_model,
    trained,
    training,
    truncation_bias,
)
from experiments.data import FetchError, Sequences, stream

TINY = [
    "model.hidden_size=16", "optimizer.steps=60", "optimizer.batch_size=8", "window=16",
    "optimizer.learning_rate=0.02", "evaluations=3", "sample_length=40", "data.held_out=0.2",
]  # fmt: skip
ROOT = Path(jaxrnn.__file__).parents[1]
TEXT = "abcd" * 1000  # what comes next is certain: a model that learns goes to 0 bits


def command(tmp_path, *settings):
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    return [*overrides, "--runs", str(tmp_path / "runs")]


@pytest.fixture(scope="module")
def language_run(tmp_path_factory):
    """The folder of a finished run."""
    tmp_path = tmp_path_factory.mktemp("language")
    (tmp_path / "text.txt").write_text(TEXT)
    settings = [*TINY, f"data.path={tmp_path / 'text.txt'}"]
    assert (
        run.main(["configs/shakespeare_lstm.toml", *command(tmp_path, *settings)]) == 0
    )
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_a_language_model_learns_and_leaves_everything_in_its_folder(language_run):
    lines = [
        json.loads(x) for x in (language_run / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [line["step"] for line in lines if "valid_bits" in line]
    assert steps == [0, 20, 40, 60] == checkpoint.steps(language_run)
    bits = [line["valid_bits"] for line in lines if "valid_bits" in line]
    assert bits[-1] < min(0.1, bits[0])  # log₂ 4 = 2 bits to begin with
    results = json.loads((language_run / "results.json").read_text())
    assert results["valid_bits"] == bits[-1] and results["seconds"] > 0
    logged = [line for line in lines if "loss" in line]
    assert all(np.isclose(x["bits"], x["loss"] / np.log(2)) for x in logged)
    assert all(
        line["characters_per_second"] > 0 and line["grad_norm"] > 0 for line in logged
    )
    assert (language_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    versions = json.loads((language_run / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    settings = json.loads((language_run / "config.json").read_text())
    assert settings["model"]["hidden_size"] == 16
    sample = (language_run / "sample.txt").read_text()
    assert len(sample) == 40 and sample in TEXT


def test_the_bias_of_truncation(language_run, capsys):
    arguments = ["--sequences", "2", "--length", "64", "--warm", "8"]
    assert truncation_bias.main([str(language_run), *arguments]) == 0
    said = capsys.readouterr().out
    assert (
        said.count("\n| ") == 7 and "trained: the adjoint of a loss shrinks by" in said
    )
    assert (language_run / "truncation_bias.png").read_bytes().startswith(b"\x89PNG")
    with (language_run / "truncation_bias.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 * 2 * 2  # windows 1 … 32, two models, two parts
    for line in lines:
        error, cosine = float(line["relative_error"]), float(line["cosine"])
        assert 0 <= error and abs(cosine) <= 1 + 1e-6
    first, *_, last = [
        x for x in lines if (x["model"], x["part"]) == ("initialisation", "w_hh")
    ]
    assert float(last["relative_error"]) < float(first["relative_error"])
    too_long = ["--sequences", "2", "--length", "4000"]
    assert truncation_bias.main([str(language_run), *too_long]) == 2
    assert "are held out: ask for fewer or shorter ones" in capsys.readouterr().err


def tiny_model():
    model = schema.Model(cell="gru", hidden_size=4)
    return models.cell_of(model), language_model.init(jax.random.key(0), model, 5, 3)


def test_products_in_bfloat16():
    """The cell's alone: the readout, and all that is not a product, stay in float32."""
    cell, params = tiny_model()
    ids = jnp.zeros((6, 2), int)

    def products(compute_dtype):
        loss = language_model.make_loss(cell, compute_dtype=compute_dtype)
        text = str(jax.make_jaxpr(loss)(params, None, (ids, ids, ids == 0)))
        return text.count("preferred_element_type=float32"), text.count(":bf16[6,2,3]")

    assert products("bfloat16")[1] and not products("float32")[1]
    assert products("bfloat16")[0] == products("float32")[0]


def test_generation_goes_on_from_the_prompt(language_run, capsys):
    arguments = [str(language_run), "--prompt", "cdab", "--temperature", "0.5"]
    for length in (0, 3, 64, 150):  # none, part of a piece, a piece, more
        assert generate.main([*arguments, "--length", str(length)]) == 0
        assert capsys.readouterr().out == "cdab" + TEXT[2 : 2 + length] + "\n"


@pytest.mark.parametrize("devices", ["1", "3"])
def test_a_run_on_two_devices_is_read_on_as_many_as_there_are(language_run, devices):
    """The run's batches of 8 were split over the tests' two devices."""
    arguments = [
        str(language_run),
        "--prompt",
        "cdab",
        "--length",
        "9",
        "--temperature",
        "0.5",
    ]
    process = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "experiments.generate", *arguments],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": devices, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.stdout == "cdabcdabcdabc\n", process.stderr


def test_a_run_makes_one_device_per_core(tmp_path):
    """After the config is found good, for which no JAX is needed, and before JAX is in use."""
    script = """
import os, sys
from experiments import run
os.sched_getaffinity = lambda _: range(3)
config = ["configs/shakespeare_lstm.toml", "--runs", sys.argv[1], "--set"]
assert run.main([*config, "optimizer.stepz=3"]) == 2 and "jax" not in sys.modules
assert run.main([*config, "data.path=/nowhere/at/all"]) == 1
import jax
assert jax.device_count() == 3, jax.devices()
"""
    asked = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    inherited = {name: value for name, value in os.environ.items() if name not in asked}
    process = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=inherited | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def toy(loss_fn, batches, metric, w=1.0):
    """A task with one parameter, w, and one metric of it."""
    return task.Task(
        cell=jaxrnn.elman,
        init=lambda key: {"w": jnp.full(2, w)},
        loss_fn=loss_fn,
        batches=lambda params: iter(batches),
        evaluate=metric,
        probe=lambda params: pytest.fail("nothing looks here"),
        per_step=1,
        unit="numbers",
    )


def experiment(steps, evaluations):
    optimizer = schema.Optimizer(
        steps=steps, batch_size=4, learning_rate=0.1, warmup=0.0
    )
    model = schema.Model(cell="elman", hidden_size=1)
    return schema.Experiment(model=model, optimizer=optimizer, evaluations=evaluations)


def test_steps_run_on_all_devices_and_what_follows_on_one(tmp_path):
    stepped, read = [], []

    def loss_fn(params, state, xs):
        jax.debug.inspect_array_sharding(
            xs, callback=lambda s: stepped.append(s.num_devices)
        )
        return jnp.mean((xs @ params["w"]) ** 2), state

    def evaluate(params):
        read.append(params["w"].sharding.device_set)
        return {"w": float(params["w"][0])}

    batches = [(None, np.ones((3, 4, 2), np.float32))] * 4
    given = experiment(steps=4, evaluations=2)
    folder = record.Run(tmp_path, "devices", given)
    console = training.Console(quiet=True)
    params, results = training.fit(
        folder, console, given, toy(loss_fn, batches, evaluate)
    )
    assert set(stepped) == {2} and read == [{jax.devices()[0]}] * 3
    assert params["w"].sharding.device_set == {jax.devices()[0]}
    saved = checkpoint.restore(folder.folder, {"w": jnp.ones(2)})
    assert saved["w"][0] == params["w"][0] == results["w"]


def test_an_error_inside_a_step_is_the_one_that_is_told(tmp_path):
    """The step took the parameters: those of the last evaluation are what is left."""

    def loss_fn(params, state, x):
        jax.debug.callback(fail, x)
        return jnp.sum(x * params["w"] ** 2), state

    def fail(x):
        if x > 1:
            raise OSError("the disk is full")

    given = experiment(steps=4, evaluations=4)
    folder = record.Run(tmp_path, "error", given)
    of = toy(loss_fn, [(None, jnp.asarray(x)) for x in (1.0, 2.0)], lambda params: {})
    with pytest.raises(Exception, match="the disk is full"):
        training.fit(folder, training.Console(quiet=True), given, of)
    assert checkpoint.steps(folder.folder) == [0, 1]


def test_another_text_than_the_run_s_is_refused(language_run, tmp_path):
    """As many characters, other ones: shapes and digests would fit."""
    folder = shutil.copytree(language_run, tmp_path / "run")
    (tmp_path / "text.txt").write_text("efgh" * 1000)
    settings = json.loads((folder / "config.json").read_text())
    settings["data"]["path"] = str(tmp_path / "text.txt")
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(checkpoint.CheckpointError, match="were they changed since"):
        trained.load(folder)


def test_no_steps_leave_the_model_as_it_began(tmp_path):
    given = experiment(steps=0, evaluations=3)
    folder = record.Run(tmp_path, "none", given)
    of = toy(
        lambda p, s, x: (0.0, s), [], lambda params: {"w": float(params["w"][0])}, w=0.5
    )
    params, results = training.fit(folder, training.Console(quiet=True), given, of)
    assert results == {"w": 0.5} and checkpoint.steps(folder.folder) == [0]
    np.testing.assert_array_equal(
        checkpoint.restore(folder.folder, params)["w"], [0.5, 0.5]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "abX"], "it knows b'abcd'"),
        (["--prompt", ""], "at least one character"),
    ],
)
def test_a_prompt_that_cannot_be_read(language_run, capsys, arguments, words):
    assert generate.main([str(language_run), *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and not captured.out


def test_generation_from_what_is_no_run(tmp_path, capsys):
    assert generate.main([str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_sampling_draws_from_the_model():
    """Reading id by id is `prime`, and the first draw's frequencies are the softmax's."""
    cell, params = tiny_model()
    ids = jnp.array([1, 4, 2])
    state = cell.initial_state(params.cell, ())
    for id in ids:
        state, logits = language_model.read(cell, params, state, id)
    primed = language_model.prime(cell, params, ids)
    np.testing.assert_allclose(primed[1], logits, rtol=1e-5)
    draw = jax.jit(
        jax.vmap(
            lambda k: language_model.sample(cell, params, k, state, logits, 1, 0.7)[2][
                0
            ]
        )
    )
    drawn = draw(jax.random.split(jax.random.key(1), 4000))
    expected = jax.nn.softmax(logits / 0.7)
    # Three standard deviations of a frequency of 4,000 draws are below 0.024.
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=5) / 4000, expected, atol=0.024
    )


def test_a_damaged_checkpoint_is_refused(language_run, tmp_path):
    params = jaxrnn.lstm.init(jax.random.key(0), 2, 3)
    tree = {"params": params, "ids": jnp.arange(3)}
    later = jax.tree.map(lambda a: a + 1, tree)
    checkpoint.save(tmp_path, 7, tree)
    like = jax.eval_shape(lambda: tree)
    restored = checkpoint.restore(tmp_path, like)
    jax.tree.map(np.testing.assert_array_equal, restored, tree)
    checkpoint.save(tmp_path, 7, later)  # in place of the first
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)["ids"], [1, 2, 3])
    checkpoint.save(tmp_path, 10, tree)
    assert checkpoint.steps(tmp_path) == [7, 10]
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)["ids"], [0, 1, 2])
    np.testing.assert_array_equal(
        checkpoint.restore(tmp_path, like, 7)["ids"], [1, 2, 3]
    )

    with pytest.raises(
        checkpoint.CheckpointError, match=r"after step 8, but after \[7, 10\]"
    ):
        checkpoint.restore(tmp_path, like, 8)
    with pytest.raises(checkpoint.CheckpointError, match="other shapes or dtypes"):
        other = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), like
        )
        checkpoint.restore(tmp_path, other)
    checkpoint.digest_file(tmp_path, 10).write_text("0" * 64)
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.restore(tmp_path, like)
    checkpoint.digest_file(
        tmp_path, 10
    ).unlink()  # as if it had been killed while it was saving
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)["ids"], [1, 2, 3])
    with pytest.raises(checkpoint.CheckpointError, match="no whole checkpoint"):
        checkpoint.restore(tmp_path / "elsewhere", like)


def test_a_wrong_config_fails_before_anything_is_made(tmp_path, capsys):
    for setting, words in {
        "optimizer.stepz=3": "did you mean `steps`",
        "optimizer.steps=-1": "`optimizer.steps` must be",
        "optimizer.learning_rate=nan": "finite",
        "model.cell=lstn": "did you mean `lstm`",
        "window=1.5": "`window` must be",
        "model.activation=relu": 'are of `cell = "elman"`',
    }.items():
        assert (
            run.main(["configs/shakespeare_lstm.toml", *command(tmp_path, setting)])
            == 2
        )
        assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_missing_text_is_an_error_and_no_traceback(tmp_path, capsys):
    arguments = command(tmp_path, "data.path=/nowhere/at/all")
    assert run.main(["configs/shakespeare_lstm.toml", *arguments]) == 1
    assert "/nowhere/at/all" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_and_saves_what_was_good(tmp_path):
    """The third batch is NaN: two good steps are what the checkpoint holds."""
    values = [1.0, 1.0, jnp.nan, 1.0, 1.0]
    given = experiment(steps=5, evaluations=5)
    of = toy(
        lambda p, s, x: (jnp.sum(x * p["w"] ** 2), s),
        [(None, jnp.asarray(x)) for x in values],
        lambda p: {"left": float(p["w"][0])},
    )
    folder = record.Run(tmp_path, "nan", given)
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan"):
        training.fit(folder, training.Console(quiet=True), given, of)
    evaluated = [line["left"] for line in folder.metrics() if "left" in line]
    assert checkpoint.steps(folder.folder) == [0, 1, 2]
    for step, left in enumerate(evaluated):
        saved = checkpoint.restore(folder.folder, {"w": jnp.ones(2)}, step)
        np.testing.assert_allclose(saved["w"][0], left)


@pytest.fixture
def on_ctrl_c(request):
    """What the process does at Ctrl-C, whatever it was started with."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "on_ctrl_c", [signal.default_int_handler, signal.SIG_IGN], indirect=True
)
def test_ctrl_c_waits_for_the_step_in_hand_and_saves_it(tmp_path, on_ctrl_c):
    """The signal comes while step 3 is being fed: three steps are what the checkpoint holds. A
    process that ignores it, as one in a script's background does, goes on to the end."""
    seen = []

    def batches():
        for number in range(1, 10):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield None, jnp.ones(())

    def loss_fn(params, state, x):
        jax.debug.callback(lambda w: seen.append(float(w)), params["w"][0])
        return jnp.sum(x * params["w"] ** 2), state

    given = experiment(steps=9, evaluations=1)
    folder = record.Run(tmp_path, "stopped", given)
    ignored = on_ctrl_c is signal.SIG_IGN
    with contextlib.nullcontext() if ignored else pytest.raises(KeyboardInterrupt):
        console = training.Console(quiet=True)
        training.fit(folder, console, given, toy(loss_fn, batches(), lambda params: {}))
    steps = 9 if ignored else 3
    assert len(seen) == steps and checkpoint.steps(folder.folder) == [0, steps]
    saved = checkpoint.restore(folder.folder, {"w": jnp.ones(2)})
    assert saved["w"][0] < seen[-1]
    assert signal.getsignal(signal.SIGINT) is on_ctrl_c


def test_steps_that_diverge_at_once_are_told(tmp_path, capsys):
    """The first update leads to no number: hardly anything is to draw, and the cause is seen."""
    (tmp_path / "text.txt").write_text(TEXT)
    settings = [*TINY, f"data.path={tmp_path / 'text.txt'}", "evaluations=1"]
    settings += ["optimizer.learning_rate=1e38", "optimizer.warmup=0.0"]
    assert (
        run.main(["configs/shakespeare_lstm.toml", *command(tmp_path, *settings)]) == 1
    )
    assert "the loss is" in capsys.readouterr().err
    (folder,) = (tmp_path / "runs").iterdir()
    assert checkpoint.steps(folder) == [0, 1] and (folder / "curves.png").exists()


def test_series_that_cannot_be_fetched_are_an_error_and_no_traceback(
    tmp_path, capsys, monkeypatch
):
    def refused(*_):
        raise FetchError("no registry")

    monkeypatch.setattr(classify_vowels.data, "load_vowels", refused)
    assert run.main(["configs/vowels_gru.toml", *command(tmp_path)]) == 1
    assert "no registry" in capsys.readouterr().err


def test_validation_is_the_mean_over_every_held_out_character():
    """Against single steps along each row: in bits, the padding of the last window not counted."""
    cell, params = tiny_model()
    ids = np.random.default_rng(0).integers(
        0, 5, 2 * train_language_model.HELD_OUT_WINDOW + 41
    )
    rows = 2
    windows = stream(ids, rows, train_language_model.HELD_OUT_WINDOW)
    assert not windows.mask.all()
    read = jax.jit(jax.vmap(lambda s, id: language_model.read(cell, params, s, id)))
    state, bits = cell.initial_state(params.cell, (rows,)), []
    flat = [a.reshape(-1, rows) for a in windows]
    for now, label, there in zip(*flat, strict=True):
        state, logits = read(state, now)
        each = -jax.nn.log_softmax(logits)[np.arange(rows), label] / np.log(2)
        bits += list(each[there])
    assert len(bits) == len(ids) - 1
    got = train_language_model._evaluator(cell, ids)(params)["valid_bits"]
    np.testing.assert_allclose(got, np.mean(bits), rtol=1e-5)


def test_the_state_goes_on_but_at_the_text_s_start():
    windows = stream(np.arange(100) % 5, 2, 7)
    cell, params = tiny_model()
    batches = train_language_model._epochs(windows, cell, 2, params)
    count = len(windows.inputs)
    starts = []
    for number in range(2 * count):
        state, (inputs, _, _) = next(batches)
        np.testing.assert_array_equal(inputs, windows.inputs[number % count])
        starts.append(state is not None)
        if state is not None:
            assert not state.h.any() and not state.h.is_deleted()
            state.h.delete()  # the step takes it
    assert starts == [n % count == 0 for n in range(2 * count)]


def test_the_optimizer_clips_and_its_rate_rises_and_falls():
    settings = schema.Optimizer(
        steps=100, batch_size=1, learning_rate=0.1, warmup=0.1, final_rate=0.5, clip=1.0
    )
    optimizer = training.make_optimizer(settings)
    state = optimizer.init(jnp.zeros(2))
    sizes = []
    for number in range(100):
        # Adam's steps are larger while a gradient grows; clipped, this one is constant.
        update, state = optimizer.update(jnp.array([3.0, 4.0]) * 1.2**number, state)
        sizes.append(float(jnp.abs(update).max()))
    rates = np.array(sizes)
    assert rates[0] == 0 and (rates <= 0.1 * (1 + 1e-3)).all()
    np.testing.assert_allclose(rates[10], 0.1, rtol=1e-3)
    np.testing.assert_allclose(rates[-1], 0.05, rtol=0.02)
    # A rise that rounds to all the steps leaves one for the fall: optax refuses none.
    training.make_optimizer(
        schema.Optimizer(steps=2, batch_size=1, learning_rate=0.1, warmup=0.9)
    )


def test_runs_never_write_over_each_other(tmp_path):
    settings = schema.Vowels()
    folders = {record.Run(tmp_path, "same", settings).folder for _ in range(3)}
    assert len(folders) == 3


def test_metrics_that_are_not_finite_are_null(tmp_path):
    folder = record.Run(tmp_path, "x", schema.Vowels())
    folder.log(1, loss=float("nan"), bits=2.0)
    assert folder.metrics()[0]["loss"] is None and folder.metrics()[0]["bits"] == 2.0
    folder.plot("y", "loss", "bits")
    assert (folder.folder / "curves.png").exists()


def test_the_classifier_looks_at_a_series_up_to_its_end():
    cell = jaxrnn.gru
    params = models.ModelParams(
        cell.init(jax.random.key(0), 2, 4),
        jaxrnn.layers.init_dense(jax.random.key(1), 4, 3),
    )
    xs = jax.random.normal(jax.random.key(2), (6, 2, 2))
    logits = classify_vowels.logits_of(cell, params, xs, jnp.array([4, 6]))
    alone = classify_vowels.logits_of(cell, params, xs[:4, :1], jnp.array([4]))
    np.testing.assert_allclose(logits[0], alone[0], rtol=1e-5)
    garbage = classify_vowels.logits_of(
        cell, params, xs.at[4:, 0].set(jnp.nan), jnp.array([4, 6])
    )
    np.testing.assert_array_equal(garbage, logits)


def test_the_microscope_sees_series_of_one_length():
    """Those of the length that most have; by the logits of the classifier itself."""
    model = schema.Model(cell="gru", hidden_size=4)
    params = models.init(jax.random.key(0), model, 2, 3)
    xs = np.random.default_rng(0).standard_normal((6, 4, 2)).astype(np.float32)
    lengths, labels = np.array([4, 6, 4, 5], np.int32), np.array([0, 1, 2, 0], np.int32)
    probed, loss = classify_vowels._probe(Sequences(xs, lengths, labels), params)
    np.testing.assert_array_equal(probed, xs[:4, [0, 2]])
    logits = classify_vowels.logits_of(
        jaxrnn.gru, params, jnp.asarray(xs), jnp.asarray(lengths)
    )
    expected = -jax.nn.log_softmax(logits)[[0, 2], [0, 2]].sum()
    got = loss(*jaxrnn.unroll(jaxrnn.gru, params.cell, None, probed))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_microscope_looks_at_the_character_after_a_stretch(language_run):
    """By the model's own loss, of the last character alone; and it draws its page."""
    settings, task, params = trained.load(language_run)
    xs, loss = task.probe(params[60])
    last, hs = jaxrnn.unroll(task.cell, params[60].cell, None, xs)
    ids = np.asarray(xs @ params[60].embedding.T).argmax(
        -1
    )  # the embedding of each is its own
    np.testing.assert_array_equal(params[60].embedding[ids], xs)
    labels = (ids[-1] + 1) % 4  # abcdabcd…
    logits = jaxrnn.layers.dense(params[60].readout, hs[-1])
    expected = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].sum()
    np.testing.assert_allclose(loss(last, hs), expected, rtol=1e-4)
    assert settings.window != len(xs) == 256
    assert microscope.main([str(language_run)]) == 0
    assert (language_run / "microscope" / "gates.csv").exists()


def test_every_sequence_comes_once_per_epoch():
    labels = np.arange(10, dtype=np.int32)
    sequences = Sequences(np.zeros((3, 10, 2), np.float32), labels + 1, labels)
    batches = classify_vowels._batches(sequences, 4, 0.0, seed=0)
    seen = np.concatenate([next(batches)[1].labels for _ in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", ["vowels_gru"])
def test_configs_reach_what_they_promise(name, tmp_path):
    assert run.main([f"configs/{name}.toml", "--runs", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "results.json").read_text())["test_accuracy"] >= 0.95
