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
from experiments.commands import Stopped
from experiments.config.schema import Experiment, Model, Optimizer
from experiments.runs import checkpoint, folder
from experiments.tasks.base import Task
from experiments.training import loop, progress, saving


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


def experiment(steps, evaluations=1, **options):
    optimizer = Optimizer(steps=steps, batch_size=4, learning_rate=0.1, warmup=0.0)
    model = Model(cell="elman", hidden_size=1)
    options |= {"optimizer": optimizer, "evaluations": evaluations}
    return Experiment(model=model, **options)


def train(root, config, task):
    run = folder.Run.create(root, "toy", config)
    try:
        first = progress.start(config, task)
        return run, *loop.train(config, task, run, Console(quiet=True), first)[:2]
    except Exception as error:
        error.run = run
        raise
    finally:
        run.close()


def saved(run, step=None):
    step = checkpoint.last_step(run.folder) if step is None else step
    return checkpoint.restore(run.folder, "params", {"w": jnp.ones(2)}, step)["w"]


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


BAD = [jnp.asarray(x) for x in (1.0, 1.0, jnp.nan, 1.0, 1.0, 1.0)]


def left(params):
    return {"left": float(params["w"][0])}


def test_a_loss_that_is_not_finite_stops_and_saves_what_was_good(tmp_path):
    """The third batch is NaN: two good steps are what the checkpoint holds."""
    words = (
        r"step 3: the loss, the gradient of `params\['w'\]` is not finite, with batch 2"
    )
    with pytest.raises(loop.NotFiniteError, match=words) as caught:
        train(tmp_path, experiment(5, evaluations=5), toy(square, BAD, left))
    run = caught.value.run
    evaluated = [line["left"] for line in run.metrics() if "left" in line]
    assert checkpoint.steps(run.folder) == [0, 1, 2]
    for step, value in enumerate(evaluated):
        np.testing.assert_allclose(saved(run, step)[0], value)


def test_an_update_that_is_not_finite_stops_too(tmp_path):
    """Loss and gradient are finite, and the rate is infinite in float32."""
    optimizer = Optimizer(steps=3, batch_size=4, learning_rate=1e38, warmup=0.0)
    model = Model(cell="elman", hidden_size=1)
    config = Experiment(model=model, optimizer=optimizer)

    def steep(params, state, x):
        return jnp.sum(1e3 * params["w"]), state

    with pytest.raises(loop.NotFiniteError, match="step 1: the update is not") as error:
        train(tmp_path, config, toy(steep, BAD))
    np.testing.assert_array_equal(saved(error.value.run), [1, 1])


def test_a_bad_batch_is_skipped(tmp_path):
    """As if it were not there."""
    config = experiment(5, evaluations=5, on_nonfinite="skip")
    run, params, _ = train(tmp_path / "a", config, toy(square, BAD, left))
    good = toy(square, [x for x in BAD if jnp.isfinite(x)], left)
    other, expected, _ = train(tmp_path / "b", experiment(5, evaluations=5), good)
    np.testing.assert_array_equal(params["w"], expected["w"])
    assert checkpoint.read_about(run.folder, 5)["left_out"] == 1
    noted = {"step": 2, "left_out": 1}
    assert [line for line in run.metrics() if line != noted] == other.metrics()


def test_after_a_rollback_the_steps_since_the_checkpoint_are_taken_on_new_batches(
    tmp_path,
):
    """The checkpoint is that of step 0, and batches 3, 4 and 5 are left."""
    config = experiment(3, evaluations=1, on_nonfinite="rollback")
    run, params, _ = train(tmp_path / "a", config, toy(square, BAD, left))
    _, expected, _ = train(tmp_path / "b", experiment(3), toy(square, BAD[3:], left))
    np.testing.assert_array_equal(params["w"], expected["w"])
    about = checkpoint.read_about(run.folder, 3)
    assert (about["batch"], about["left_out"]) == (6, 1)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_only_so_many_batches_may_be_bad(tmp_path, policy):
    bad = toy(square, lambda number: (None, jnp.asarray(jnp.nan)), left)
    config = experiment(5, on_nonfinite=policy, nonfinite_limit=3)
    with pytest.raises(loop.NotFiniteError, match=r"with batch 3\. 3 were left out"):
        train(tmp_path, config, bad)


def test_a_step_that_is_not_finite_does_not_count():
    """Progress is a value: the step after it starts from the same one."""
    batches = [jnp.asarray(x) for x in (1.0, jnp.nan)]
    config, task = experiment(5), toy(square, batches)
    first = progress.start(config, task)
    trainer = progress.Trainer(config, task, first)
    assert first.step == 0 and np.isnan(first.average)
    second, measured = trainer.advance(first)
    assert measured.finite and second.step == 1 and second.average == measured.loss
    before = np.asarray(second.learner.params["w"])
    third, measured = trainer.advance(second)
    assert not measured.finite and (third.step, third.batch) == (1, 1)
    np.testing.assert_array_equal(third.learner.params["w"], before)
    trainer.close()


def test_a_save_that_fails_is_tried_again(tmp_path, monkeypatch, capsys):
    """The disk is full for two saves of three: the run goes on, and all is there."""
    save, calls = checkpoint.save, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", full)
    config, task = experiment(4, evaluations=4), toy(square, BAD[:1] * 4, left)
    run = folder.Run.create(tmp_path, "toy", config)
    loop.train(config, task, run, Console(), progress.start(config, task))
    assert checkpoint.steps(run.folder) == [0, 3, 4]
    assert capsys.readouterr().out.count("could not be saved: No space left") == 2


def test_a_disk_that_stays_full_ends_the_run(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    task = toy(square, BAD[:1] * 9, left)
    with pytest.raises(OSError, match=r"step 2 could not be saved.*try 3 of 3"):
        train(tmp_path, experiment(9, evaluations=9), task)


@pytest.fixture
def on_signal(request):
    """What the process does at a signal, whatever it was started with."""
    number, handler = request.param
    before = signal.signal(number, handler)
    yield number, handler
    signal.signal(number, before)


@pytest.mark.parametrize(
    "on_signal",
    [
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.SIG_IGN),
    ],
    indirect=True,
)
def test_a_signal_waits_for_the_step_in_hand_and_saves_it(tmp_path, on_signal):
    """It comes while the fourth batch is made, beside step 3 or early in step 4. A
    process that ignores it, as one in a script's background does, goes on."""
    seen, (number, handler) = [], on_signal

    def batch(place):
        if place == 3:
            os.kill(os.getpid(), number)
        return None, jnp.ones(())

    def loss_fn(params, state, x):
        jax.debug.callback(lambda w: seen.append(float(w)), params["w"][0])
        return square(params, state, x)

    config, ignored = experiment(9), handler is signal.SIG_IGN
    run = folder.Run.create(tmp_path, "stopped", config)
    stopped = pytest.raises(
        Stopped, match=f"stopped by {number.name} after step [34] of 9"
    )
    with contextlib.nullcontext() if ignored else stopped:
        task = toy(loss_fn, batch)
        first = progress.start(config, task)
        loop.train(config, task, run, Console(quiet=True), first)
    steps = checkpoint.last_step(run.folder)
    assert len(seen) == steps and steps in ([9] if ignored else [3, 4])
    assert saved(run)[0] < seen[-1]
    assert signal.getsignal(number) is handler


def test_a_signal_in_the_last_evaluation_comes_too_late_and_is_told(tmp_path):
    def evaluate(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"w": 1.0}

    batches = toy(square, lambda number: (None, jnp.ones(())), evaluate)
    config = experiment(1)
    run = folder.Run.create(tmp_path, "late", config)
    # The evaluation before the first step is one that it can stop after.
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 0 of 1"):
        loop.train(
            config, batches, run, Console(quiet=True), progress.start(config, batches)
        )
    untrained = experiment(0)
    run = folder.Run.create(tmp_path, "late", untrained)
    first = progress.start(untrained, batches)
    trained = loop.train(untrained, batches, run, Console(quiet=True), first)
    assert trained.signal == "SIGTERM" and trained.results == {"w": 1.0}


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(0, 3, {0}), (60, 3, {0, 20, 40, 60}), (3, 10**6, {0, 1, 2, 3})],
)
def test_when_to_evaluate(steps, evaluations, expected):
    assert saving.evaluations(experiment(steps, evaluations)) == expected


def carried(params, state, x):
    """A loss by the parameters and by a state that is carried along."""
    state = state + x * params["w"]
    return jnp.sum(state**2) * 1e-2, state


def streamed(number):
    """Batches of which the fifth is bad, and the state begins anew at every fourth."""
    x = np.float32("nan") if number == 5 else np.float32(1 + number % 3)
    return (jnp.zeros(2) if number % 4 == 0 else None), x


@pytest.mark.parametrize("policy", ["skip", "rollback", "stop"])
def test_a_step_that_begins_before_the_last_one_is_read(tmp_path, monkeypatch, policy):
    """As on a GPU: parameters and metrics are the same to the bit."""
    trainer, left = progress.Trainer, []
    config = experiment(9, evaluations=3, on_nonfinite=policy)
    for overlaps in (False, True):
        ahead = []

        def made(*arguments, overlaps=overlaps, ahead=ahead):
            found = trainer(*arguments, overlaps=overlaps)
            advance = found.advance

            def watched(*given):
                result = advance(*given)
                ahead.append(found.is_ahead)
                return result

            found.advance = watched
            return found

        monkeypatch.setattr(loop, "Trainer", made)
        root = tmp_path / str(overlaps)
        try:
            run, *_ = train(root, config, toy(carried, streamed))
        except loop.NotFiniteError as error:
            run = error.run
        files = {p.name: p.read_bytes() for p in run.folder.rglob("*.safetensors")}
        left.append((files, run.lines, checkpoint.steps(run.folder)))
        assert any(ahead) == overlaps and not all(ahead)
    assert left[0] == left[1]


def test_a_signal_waits_for_the_step_that_has_begun(tmp_path, monkeypatch):
    trainer = progress.Trainer

    def made(*arguments):
        return trainer(*arguments, overlaps=True)

    def batch(number):
        if number == 3:
            signal.raise_signal(signal.SIGTERM)
        return streamed(number)

    monkeypatch.setattr(loop, "Trainer", made)
    config = experiment(9, evaluations=1, on_nonfinite="skip")
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "stopped", config, toy(carried, batch))
    (folder_,) = (tmp_path / "stopped").iterdir()
    step = checkpoint.last_step(folder_)
    assert 0 < step < 9 and f"after step {step} of 9" in str(stopped.value)
    whole, params, _ = train(tmp_path / "whole", config, toy(carried, streamed))
    run = folder.Run(folder_, config)
    first = saving.restore(run, config, toy(carried, streamed))
    ended = loop.train(config, toy(carried, streamed), run, Console(quiet=True), first)
    run.close()
    np.testing.assert_array_equal(ended.params["w"], params["w"])
    assert run.lines == whole.lines
