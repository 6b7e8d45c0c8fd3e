"""The training loop: however it ends, what was good is saved."""

import contextlib
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxrnn
from experiments.config.schema import Experiment, Model, Optimizer
from experiments.runs import checkpoint, folder
from experiments.tasks.base import Task
from experiments.training import loop, progress


def square(params, state, x):
    return jnp.sum(x * params["w"] ** 2), state


def toy(loss_fn, batches, metric=lambda params: {}, w=1.0):
    """A task with one parameter, w, and one metric of it."""
    return Task(
        cell=jaxrnn.elman,
        init=lambda key: {"w": jnp.full(2, w)},
        loss_fn=loss_fn,
        batch=batches if callable(batches) else lambda number: (None, batches[number]),
        evaluate=metric,
        probe=lambda params: pytest.fail("nothing looks here"),
        per_step=1,
        unit="numbers",
    )


def experiment(steps, evaluations=1):
    optimizer = Optimizer(steps=steps, batch_size=4, learning_rate=0.1, warmup=0.0)
    model = Model(cell="elman", hidden_size=1)
    return Experiment(model=model, optimizer=optimizer, evaluations=evaluations)


def train(root, config, task):
    run = folder.Run(root, "toy", config)
    try:
        return run, *loop.train(config, task, run, Console(quiet=True))
    except Exception as error:
        error.run = run
        raise


def saved(run, step=None):
    return checkpoint.restore(run.folder, {"w": jnp.ones(2)}, step)["w"]


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

    batches = [np.ones((3, 4, 2), np.float32)] * 4
    task = toy(loss_fn, batches, evaluate)
    run, params, results = train(tmp_path, experiment(4, evaluations=2), task)
    assert set(stepped) == {2} and read == [{jax.devices()[0]}] * 3
    assert params["w"].sharding.device_set == {jax.devices()[0]}
    assert saved(run)[0] == params["w"][0] == results["w"]


def test_an_error_inside_a_step_is_the_one_that_is_reported(tmp_path):
    """The step took the parameters: those of the last evaluation are what is left."""

    def loss_fn(params, state, x):
        jax.debug.callback(fail, x)
        return square(params, state, x)

    def fail(x):
        if x > 1:
            raise OSError("the disk is full")

    task = toy(loss_fn, [jnp.asarray(x) for x in (1.0, 2.0)])
    with pytest.raises(Exception, match="the disk is full") as caught:
        train(tmp_path, experiment(4, evaluations=4), task)
    assert checkpoint.steps(caught.value.run.folder) == [0, 1]


def test_no_steps_leave_the_model_untrained(tmp_path):
    task = toy(square, [], lambda params: {"w": float(params["w"][0])}, w=0.5)
    run, _, results = train(tmp_path, experiment(0, evaluations=3), task)
    assert results == {"w": 0.5} and checkpoint.steps(run.folder) == [0]
    np.testing.assert_array_equal(saved(run), [0.5, 0.5])


def test_a_loss_that_is_not_finite_stops_and_saves_what_was_good(tmp_path):
    """The third batch is NaN: two good steps are what the checkpoint holds."""
    batches = [jnp.asarray(x) for x in (1.0, 1.0, jnp.nan, 1.0, 1.0)]
    task = toy(square, batches, lambda p: {"left": float(p["w"][0])})
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan") as caught:
        train(tmp_path, experiment(5, evaluations=5), task)
    run = caught.value.run
    evaluated = [line["left"] for line in run.metrics() if "left" in line]
    assert checkpoint.steps(run.folder) == [0, 1, 2]
    for step, left in enumerate(evaluated):
        np.testing.assert_allclose(saved(run, step)[0], left)
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_step_that_is_not_finite_does_not_count():
    """Progress is a value: the step after it starts from the same one."""
    batches = [jnp.asarray(x) for x in (1.0, jnp.nan)]
    config, task = experiment(5), toy(square, batches)
    advance, first = progress.make_advance(config, task), progress.start(config, task)
    assert first.step == 0 and np.isnan(first.average)
    second, measured = advance(first)
    assert measured.finite and second.step == 1 and second.average == measured.loss
    left = np.asarray(second.learner.params["w"])
    third, measured = advance(second)
    assert not measured.finite and third.step == 1
    np.testing.assert_array_equal(third.learner.params["w"], left)


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
    """The signal comes while step 3 runs and the next batch is made: three steps are
    what is saved. A process that ignores it, as one in a script's background does,
    goes on to the end."""
    seen = []

    def batch(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return None, jnp.ones(())

    def loss_fn(params, state, x):
        jax.debug.callback(lambda w: seen.append(float(w)), params["w"][0])
        return square(params, state, x)

    config, ignored = experiment(9), on_ctrl_c is signal.SIG_IGN
    run = folder.Run(tmp_path, "stopped", config)
    with contextlib.nullcontext() if ignored else pytest.raises(KeyboardInterrupt):
        loop.train(config, toy(loss_fn, batch), run, Console(quiet=True))
    steps = 9 if ignored else 3
    assert len(seen) == steps and checkpoint.steps(run.folder) == [0, steps]
    assert saved(run)[0] < seen[-1]
    assert signal.getsignal(signal.SIGINT) is on_ctrl_c


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(0, 3, {0}), (60, 3, {0, 20, 40, 60}), (3, 10**6, {0, 1, 2, 3})],
)
def test_when_to_evaluate(steps, evaluations, expected):
    due = loop.evaluations_due(experiment(steps, evaluations))
    assert {step for step in range(100) if due(step)} == expected
