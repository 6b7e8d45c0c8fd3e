"""Arguments that a rule or the driver does not take: what was got, and the cure."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxrnn
from jaxrnn import online
from tests.cases import FIELD
from tests.online.runs import loss_fn
from tests.test_units import Two, cell_of, memory_and_output

pytestmark = pytest.mark.usefixtures("as_users_see_it")

CELL, RULE = jaxrnn.elman, online.rtrl()
PARAMS = CELL.init(jax.random.key(0), 3, 4)
STATE = CELL.initial_state(PARAMS, (2,))
PAIR = PARAMS, jnp.ones(())
BATCH = online.Batch(jnp.ones((5, 2, 3)), jnp.ones((5, 2, 4)))
OPTIMIZER = optax.sgd(0.1)
W = jnp.ones((4, 2))


def start(rule=RULE, cell: Any = CELL, params: Any = PARAMS, state=STATE, **options):
    return online.online_start(rule, cell, params, state, **options)


def start_with(rule, cell):
    params = cell.init(jax.random.key(0), 3, 6)
    return start(rule, cell, params, cell.initial_state(params, (2,)))


def run(params: Any = PAIR, carry: Any = None, batch: Any = BATCH, **options: Any):
    given = {"estimator": RULE, "loss_fn": loss_fn} | options
    fn = online.online_value_and_grad(**given)
    return fn(params, start() if carry is None else carry, batch)


def mixing(params, state, x):
    """A unit acts on its neighbor, by a weight that is in no product."""
    return jaxrnn.ElmanState(params.a * jnp.roll(state.h, 1) + x @ params.w_ih)


GATED = FIELD["reset_before_gru"]
HIDDEN_WEIGHTS = cell_of(mixing)
WORDS = "each parameter acts on a single unit"
CASES = {
    "estimator": (lambda: start(CELL), TypeError, "`estimator` must be a rule, such"),
    "estimator of the driver": (
        lambda: run(estimator=online.rtrl),
        TypeError,
        "`estimator` must be a rule, such as jaxrnn.online.rtrl",
    ),
    "cell": (lambda: start(cell="lstm"), TypeError, "`cell` must be a jaxrnn.Cell"),
    "params of another cell": (
        lambda: start(params=jaxrnn.lstm.init(jax.random.key(0), 3, 4)),
        TypeError,
        "`params` must be the cell's own, ElmanParams",
    ),
    "a key": (lambda: start(key=3), TypeError, "`key` must be a"),
    "no key": (
        lambda: run(estimator=online.uoro(), carry=start(online.uoro())),
        TypeError,
        r"`key` must be a random key, because uoro draws .* jax.random.key\(0\)",
    ),
    "no key for ok": (
        lambda: run(estimator=online.ok(), carry=start(online.ok())),
        TypeError,
        "because ok draws",
    ),
    "no function": (lambda: run(loss_fn=3), TypeError, "`loss_fn` must be"),
    "params no pair": (
        lambda: run(params=PARAMS),
        TypeError,
        "`params` must be a pair, the cell's parameters and those of the loss",
    ),
    "carry": (
        lambda: run(carry=STATE),
        TypeError,
        "`carry` must be a Carry, as jaxrnn.online.online_start makes it",
    ),
    "batch": (
        lambda: run(batch=BATCH.xs),
        TypeError,
        "`batch` must be a Batch, as jaxrnn.online.Batch makes it",
    ),
    "carry of another rule": (
        lambda: run(carry=start(online.uoro())),
        ValueError,
        "`carry` must be of this estimator .* Make it with them",
    ),
    "carry of another batch": (
        lambda: run(
            carry=start()._replace(
                trace=start(state=None or STATE._replace(h=jnp.zeros((3, 4)))).trace
            )
        ),
        ValueError,
        "`carry` must be of this estimator",
    ),
    "a loss for each sequence": (
        lambda: run(loss_fn=lambda rest, h, target: h.sum(axis=-1)),
        TypeError,
        "`loss_fn` must return a loss that is one floating number, of one step, .* Sum",
    ),
    "a loss and more": (
        lambda: run(loss_fn=lambda rest, h, target: (h.sum(), h)),
        TypeError,
        "`loss_fn` must return a loss that is one floating number, .* a tuple",
    ),
    "targets of another length": (
        lambda: run(batch=BATCH._replace(targets=jnp.ones((4, 2, 4)))),
        ValueError,
        "all leaves of `batch` must have the same first axis",
    ),
    "mask": (
        lambda: run(batch=BATCH._replace(mask=jnp.ones((2, 5), bool))),
        ValueError,
        "`mask` must have shape",
    ),
    "reset_state": (
        lambda: run(
            batch=BATCH._replace(reset=jnp.ones((5, 2), bool)),
            reset_state=jaxrnn.ElmanState(jnp.zeros((2, 5))),
        ),
        ValueError,
        r"`reset_state.h` must have shape \(2, 4\)",
    ),
    "every": (
        lambda: online.online_train_step(RULE, loss_fn, OPTIMIZER, 0),
        ValueError,
        "`every` must be",
    ),
    "every, a float": (
        lambda: online.online_train_step(RULE, loss_fn, OPTIMIZER, 1.5),
        TypeError,
        "`every` must be an integer",
    ),
    "optimizer": (
        lambda: online.online_train_step(RULE, loss_fn, optax.sgd),
        TypeError,
        "`optimizer`",
    ),
    "n": (lambda: online.snap(0), ValueError, "`n` must be"),
    "n, a float": (lambda: online.snap(1.0), TypeError, "`n` must be an integer"),
    "r": (lambda: online.ok(0), ValueError, "`r` must be"),
    "kappa": (
        lambda: online.eprop(1),
        ValueError,
        "`kappa` must be at least 0 and below 1, but got 1",
    ),
    "kappa, a word": (
        lambda: online.eprop("a"),
        TypeError,
        "`kappa` must be a number",
    ),
    "snap, several units": (
        lambda: start_with(online.snap(), GATED),
        TypeError,
        f"`cell` must be one in which {WORDS}.*Use jaxrnn.online.rtrl",
    ),
    "rflo, several units": (
        lambda: start_with(online.rflo(), GATED),
        TypeError,
        WORDS,
    ),
    "eprop, hidden weights": (
        lambda: start_with(online.eprop(), HIDDEN_WEIGHTS),
        TypeError,
        "`cell` must show which weights join its units",
    ),
    "snap 2, hidden weights": (
        lambda: start_with(online.snap(2), HIDDEN_WEIGHTS),
        TypeError,
        r"must show which weights join its units.*rtrl\(\) or snap\(1\)",
    ),
    "kf_rtrl, gated state": (
        lambda: start_with(online.kf_rtrl(), GATED),
        TypeError,
        "`cell` must be one whose weight matrices multiply the input or the state",
    ),
    "ok, gated state": (
        lambda: start_with(online.ok(), GATED),
        TypeError,
        "weight matrices multiply the input or the state, and nothing else",
    ),
    "dni without a synthesizer": (
        lambda: start(online.dni()),
        TypeError,
        r"must have a synthesizer for dni.*synthesizing\(cell\)",
    ),
    "synthesizing no cell": (
        lambda: online.synthesizing(3),
        TypeError,
        "`cell` must be a jaxrnn.Cell",
    ),
    "feedback, shapes": (
        lambda: online.feedback(jnp.ones((5, 4)), W, W.T),
        ValueError,
        "`w` and `b` must both be",
    ),
    "feedback, vectors": (
        lambda: online.feedback(jnp.ones((5, 2)), W[0], W[0]),
        ValueError,
        "`w` and `b` must both be",
    ),
    "feedback, a word": (
        lambda: online.feedback(jnp.ones((5, 4)), W, W, adaptive="yes"),
        TypeError,
        "`adaptive` must be",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), CASES.values(), ids=CASES)
def test_refuses(call, kind, words):
    with pytest.raises(kind, match=words) as raised:
        call()
    assert type(raised.value) is kind


def test_what_others_refuse_is_taken_by_rtrl_and_uoro():
    """As their messages say."""
    for cell in (GATED, HIDDEN_WEIGHTS, cell_of(memory_and_output, Two)):
        for rule in (online.rtrl(), online.uoro()):
            start_with(rule, cell)
