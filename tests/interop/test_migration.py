"""The tables of the migration pages: every row is run, by the test that names it.

A row is known by its first cell. The last test compares these names with the pages.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import interop, layers
from jaxrnn.layers import BothWays

PAGES = [
    Path(__file__).parents[2] / "docs" / f"from_{name}.md"
    for name in ("pytorch", "others")
]
T, B, I, H = 6, 3, 4, 5  # noqa: E741
XS = np.random.default_rng(0).normal(size=(T, B, I)).astype(np.float32)
LENGTHS = np.array([6, 4, 1])
MASK = jaxrnn.lengths_to_mask(jnp.asarray(LENGTHS), T)
# Of tables that list layouts, tested in the other files of this folder.
LAYOUTS = {"jaxrnn", "Flax NNX", "Flax Linen", "Equinox", "Keras", "Haiku"}
ROWS: set[str] = set()


def runs(*rows):
    """Says which rows a test runs."""
    assert not ROWS & set(rows)
    ROWS.update(rows)
    return lambda test: test


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def nnx():
    return pytest.importorskip("flax.nnx")


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


@pytest.fixture
def hk():
    return pytest.importorskip("haiku")


@pytest.fixture
def eqx():
    return pytest.importorskip("equinox")


# PyTorch.


@runs("`nn.LSTM(I, H)`, `nn.GRU`, `nn.RNN`", "`weight_ih_lk`", "`weight_hh_lk`")
@runs("LSTM, RNN: `bias_ih_lk`, `bias_hh_lk`", "GRU: `bias_ih_lk`, `bias_hh_lk`")
def test_the_modules_of_torch(torch):
    cells = {"LSTM": jaxrnn.lstm, "GRU": jaxrnn.gru, "RNN": jaxrnn.elman}
    for name, cell in cells.items():
        module = getattr(torch.nn, name)(I, H)
        net, params = interop.from_torch(module)
        assert net == layers.recurrent(cell, H)
        fresh = net.init(jax.random.key(0), I)
        assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)
        state = {n: a.numpy() for n, a in module.state_dict().items()}
        close(params.w_ih, state["weight_ih_l0"].T)
        close(params.w_hh, state["weight_hh_l0"].T)
        b, summed = state["bias_ih_l0"], state["bias_ih_l0"] + state["bias_hh_l0"]
        if name == "GRU":
            close(params.b[: 2 * H], summed[: 2 * H])
            close(params.b[2 * H :], b[2 * H :])
            close(params.b_hn, state["bias_hh_l0"][2 * H :])
        else:
            close(params.b, summed)


@runs("`out, (h_n, c_n) = lstm(x, (h_0, c_0))`", "`h_n[k]`, `c_n[k]`")
@runs("`num_layers=2`", "`bidirectional=True`", "suffix `_reverse`")
@runs("`pack_padded_sequence(x, lengths)`", "`pad_packed_sequence`")
def test_a_packed_stack_of_torch(torch):
    module = torch.nn.LSTM(I, H, num_layers=2, bidirectional=True)
    h_0, c_0 = torch.randn(2, 4, B, H)
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(torch.from_numpy(XS), torch.tensor(LENGTHS))
    packed, (h_n, c_n) = module(packed, (h_0, c_0))
    expected, _ = rnn.pad_packed_sequence(packed)

    net, params = interop.from_torch(module)
    one = layers.bidirectional(layers.recurrent(jaxrnn.lstm, H))
    assert net == layers.stack(one, one)
    close(params[1].backward.w_ih, module.weight_ih_l1_reverse.detach().T.numpy())
    pairs = zip(h_0.numpy(), c_0.numpy(), strict=True)
    starts = [jaxrnn.LSTMState(*pair) for pair in pairs]
    before = BothWays(*starts[:2]), BothWays(*starts[2:])
    state, ys = net.unroll(params, before, jnp.asarray(XS), mask=MASK)
    close(ys, expected.detach().numpy())
    for k in range(2):
        close(state[k].forward.h, h_n[2 * k].detach().numpy())
        close(state[k].backward.c, c_n[2 * k + 1].detach().numpy())


@runs("`nn.LSTMCell`, one step")
def test_a_step_of_torch(torch):
    cell = torch.nn.LSTMCell(I, H)
    h, c = torch.randn(2, B, H)
    after = cell(torch.from_numpy(XS[0]), (h, c))
    net, params = interop.from_torch(cell)
    start = jaxrnn.LSTMState(jnp.asarray(h.numpy()), jnp.asarray(c.numpy()))
    state, y = net.step(params, start, jnp.asarray(XS[0]))
    close(y, after[0].detach().numpy())
    close(state.c, after[1].detach().numpy())


@runs("`dropout=` between layers")
def test_dropout_of_torch(torch):
    module = torch.nn.GRU(I, H, 2, dropout=0.5)
    net, _ = interop.from_torch(module)
    one = layers.recurrent(jaxrnn.gru, H)
    assert net == layers.stack(one, layers.dropout(0.5), one)


@runs("`batch_first=True`")
def test_batch_first_of_torch(torch):
    module = torch.nn.GRU(I, H, batch_first=True)
    xs = np.moveaxis(XS, 0, 1)
    expected = module(torch.from_numpy(xs.copy()))[0].detach().numpy()
    net, params = interop.from_torch(module)
    _, ys = net.unroll(params, None, jnp.moveaxis(jnp.asarray(xs), 1, 0))
    close(jnp.moveaxis(ys, 0, 1), expected)


@runs("`nn.Embedding` before the RNN")
def test_an_embedding_of_torch(torch):
    table, module = torch.nn.Embedding(7, I), torch.nn.GRU(I, H)
    ids = np.array([[0, 3, 6], [2, 2, 1]])
    expected = module(table(torch.from_numpy(ids)))[0].detach().numpy()
    net, params = interop.from_torch(module)
    weights = jnp.asarray(table.weight.detach().numpy())
    _, ys = jaxrnn.unroll(
        jaxrnn.gru, params._replace(w_ih=weights @ params.w_ih), None, jnp.asarray(ids)
    )
    close(ys, expected)
    both = layers.stack(layers.embedding(7, I), net)
    tree = layers.EmbeddingParams(weights), params
    close(both.unroll(tree, None, jnp.asarray(ids))[1], expected)


@runs("`ignore_index=-100`")
def test_a_missing_label_of_torch(torch):
    logits, labels = XS[0], np.array([1, -100, 3])
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels)
    )
    loss = optax.softmax_cross_entropy_with_integer_labels
    found = jaxrnn.losses.masked_mean(loss, jnp.asarray(logits), jnp.asarray(labels))
    close(found, expected)


@runs("`clip_grad_norm_(…, 1.0)`")
def test_clipping_of_torch(torch):
    parameter = torch.nn.Parameter(torch.from_numpy(XS))
    (parameter**2).sum().backward()
    torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    clip = optax.chain(optax.clip_by_global_norm(1.0), optax.identity())
    clipped, _ = clip.update(jnp.asarray(2 * XS), clip.init(jnp.asarray(XS)))
    close(clipped, parameter.grad)


def windowed_loss(params, state, xs):
    state, hs = jaxrnn.unroll(jaxrnn.gru, params, state, xs)
    return jnp.sum(hs**2), state


def gru_of(module):
    return interop.from_torch(module, two_biases=True)


def gradient_of(module):
    """The gradient of a PyTorch module's parameters, in our layout."""
    grads = {n: p.grad.numpy() for n, p in module.named_parameters()}
    return interop.from_torch(grads, two_biases=True)[1]


@runs("`state.detach()` between windows")
def test_truncation_of_torch(torch):
    module, state = torch.nn.GRU(I, H), None
    for window in torch.from_numpy(XS).split(2):
        out, state = module(window, None if state is None else state.detach())
        (out**2).sum().backward()
    _, params = gru_of(module)
    by = jaxrnn.truncated_value_and_grad(
        lambda p, s, xs: windowed_loss(interop.one_bias(p), s, xs), 2
    )
    start = jaxrnn.gru.initial_state(interop.one_bias(params), (B,))
    _, grads = by(params, start, jnp.asarray(XS))

    def by_hand(params):
        total, state = 0.0, start
        for window in jnp.split(jnp.asarray(XS), 3):
            state = jax.lax.stop_gradient(state)
            loss, state = windowed_loss(interop.one_bias(params), state, window)
            total += loss
        return total

    expected = gradient_of(module)
    for found in (grads, jax.grad(by_hand)(params)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            found,
            expected,
        )


@runs("`torch.utils.checkpoint`")
@runs("`torch.func.vmap`, second derivatives", "`autocast(dtype=torch.bfloat16)`")
def test_what_the_engine_does_for_torch(torch):
    """Less memory, the same gradient; the transformations; bfloat16 products."""
    module = torch.nn.GRU(I, H)
    (module(torch.from_numpy(XS))[0] ** 2).sum().backward()
    _, params = gru_of(module)

    def loss(params, **options):
        params = interop.one_bias(params)
        _, hs = jaxrnn.unroll(jaxrnn.gru, params, None, jnp.asarray(XS), **options)
        return jnp.sum(hs**2)

    def same(grads):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            grads,
            gradient_of(module),
        )

    same(jax.grad(loss)(params, store="boundaries"))
    start = jaxrnn.gru.initial_state(interop.one_bias(params), (B,))
    checkpointed = jaxrnn.checkpointed_value_and_grad(
        lambda p, s, xs: windowed_loss(interop.one_bias(p), s, xs), 2
    )
    same(checkpointed(params, start, jnp.asarray(XS))[1])
    rough = loss(params, compute_dtype=jnp.bfloat16)
    assert 0 < abs(rough - loss(params)) < 0.05 * loss(params)

    # The derivative of |gradient|² along its own direction, against a difference.
    def slope(params):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(params)))

    def moved(size):
        return jax.tree.map(lambda p: p + size, params)

    second = jax.tree.leaves(jax.grad(slope)(params))
    found = sum(jnp.sum(g) for g in second)
    expected = (slope(moved(1e-2)) - slope(moved(-1e-2))) / 2e-2
    np.testing.assert_allclose(found, expected, rtol=1e-2)
    batched = jax.vmap(
        lambda x: jaxrnn.unroll(jaxrnn.gru, interop.one_bias(params), None, x)[1],
        in_axes=1,
        out_axes=1,
    )(jnp.asarray(XS))
    close(batched, module(torch.from_numpy(XS))[0].detach().numpy())


@runs("`loss.backward()`, `optimizer.step()`")
def test_a_training_step_of_torch(torch):
    module = torch.nn.GRU(I, H)
    _, params = gru_of(module)
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    (module(torch.from_numpy(XS))[0] ** 2).sum().backward()
    optimizer.step()

    def loss(params, state, xs):
        return windowed_loss(interop.one_bias(params), state, xs)[0], state

    rate = optax.sgd(0.01)
    step = jaxrnn.train.make_step(jax.value_and_grad(loss, has_aux=True), rate)
    learner = jaxrnn.train.init_learner(params, rate)
    learner, *_ = step(learner, None, jnp.asarray(XS))
    jax.tree.map(close, learner.params, gru_of(module)[1])


@runs("`bias=False`")
def test_no_bias_of_torch(torch):
    module = torch.nn.GRU(I, H, bias=False)
    _, params = interop.from_torch(module)
    assert not np.any(params.b) and not np.any(params.b_hn)

    def loss(params):
        p = params._replace(b=jax.lax.stop_gradient(params.b))
        _, hs = jaxrnn.unroll(jaxrnn.gru, p, None, jnp.asarray(XS))
        return jnp.sum(hs**2)

    grads = jax.grad(loss)(params)
    assert not np.any(grads.b) and np.any(grads.w_hh)


@runs("`proj_size=P`: `weight_hr_lk`", '`nonlinearity="relu"`')
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_options_of_torch(torch):
    net, params = interop.from_torch(torch.nn.LSTM(I, H, proj_size=2))
    assert net == layers.recurrent(jaxrnn.make_lstm(projection=2), H)
    assert params.w_hr.shape == (H, 2)
    module = torch.nn.RNN(I, H, nonlinearity="relu")
    relu = layers.recurrent(jaxrnn.make_elman("relu"), H)
    assert interop.from_torch(module)[0] == relu
    given = interop.from_torch(module.state_dict(), nonlinearity="relu")
    assert given[0] == relu


# Flax.


@runs("`nnx.RNN(cell)(x)`, `nn.RNN(cell)`", "`time_major=True`")
@runs("`seq_lengths=lengths`", "`initial_carry=(c, h)`, `return_carry=True`")
def test_a_layer_of_flax(nnx):
    cell = nnx.OptimizedLSTMCell(I, H, rngs=nnx.Rngs(0))
    rnn = nnx.RNN(cell, time_major=True, return_carry=True, rngs=nnx.Rngs(0))
    h, c = np.random.default_rng(1).normal(size=(2, B, H)).astype(np.float32)
    carry = jnp.asarray(c), jnp.asarray(h)
    (c_n, h_n), expected = rnn(
        jnp.asarray(XS), initial_carry=carry, seq_lengths=jnp.asarray(LENGTHS)
    )
    net, params = interop.from_flax(rnn)
    start = jaxrnn.LSTMState(*reversed(carry))
    state, ys = net.unroll(params, start, jnp.asarray(XS), mask=MASK)
    close(state.h, h_n)
    close(state.c, c_n)
    close(ys, expected * np.asarray(MASK)[..., None])


@runs("`reverse=True, keep_order=True`", "`SimpleCell(activation_fn=nnx.relu)`")
def test_a_reversed_layer_of_flax(nnx):
    cell = nnx.SimpleCell(I, H, activation_fn=nnx.relu, rngs=nnx.Rngs(0))
    rnn = nnx.RNN(cell, time_major=True, rngs=nnx.Rngs(0))
    expected = rnn(jnp.asarray(XS), reverse=True, keep_order=True)
    net, params = interop.from_flax(rnn)
    relu = jaxrnn.make_elman("relu")
    assert net == layers.recurrent(relu, H)
    _, ys = jaxrnn.unroll(relu, params, None, jnp.asarray(XS), reverse=True)
    close(ys, expected)
    given = interop.from_flax(nnx.state(cell), activation="relu")
    assert given[0] == net


RESET = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]]) > 0


@runs("`nn.scan` around a cell that resets its carry")
def test_a_scan_with_resets_of_flax(nnx):
    cell = nnx.GRUCell(I, H, rngs=nnx.Rngs(0))
    h, expected = jnp.ones((B, H)), []
    for x, reset in zip(XS, RESET, strict=True):
        h, y = cell(jnp.where(reset[:, None], 0.0, h), jnp.asarray(x))
        expected.append(y)
    net, params = interop.from_flax(cell)
    start = jaxrnn.GRUState(jnp.ones((B, H)))
    options = {"reset": jnp.asarray(RESET)}
    close(net.unroll(params, start, jnp.asarray(XS), **options)[1], jnp.stack(expected))


@runs("`Bidirectional(forward_rnn, backward_rnn)`")
def test_both_ways_of_flax(nnx):
    rngs = nnx.Rngs(0)
    rnns = [nnx.RNN(nnx.GRUCell(I, H, rngs=rngs), rngs=rngs) for _ in range(2)]
    module = nnx.Bidirectional(*rnns, time_major=True)
    net, params = interop.from_flax(module)
    assert net == layers.bidirectional(layers.recurrent(jaxrnn.gru, H))
    close(net.unroll(params, None, jnp.asarray(XS))[1], module(jnp.asarray(XS)))
    nnx.update(module, interop.to_flax(params, nnx.GRUCell))


# Equinox.


@runs("`lax.scan` over `jax.vmap(cell)`", "`cell(x, state)`")
@runs("the state `(h, c)` of `LSTMCell`", "`use_bias=False`")
def test_a_cell_of_equinox(eqx):
    cell = eqx.nn.LSTMCell(I, H, use_bias=False, key=jax.random.key(0))
    h, c = jax.random.normal(jax.random.key(1), (2, B, H))

    def over_step(state, x):
        state = jax.vmap(cell)(x, state)
        return state, state[0]

    (h_n, c_n), expected = jax.lax.scan(over_step, (h, c), jnp.asarray(XS))
    net, params = interop.from_equinox(cell)
    start = jaxrnn.LSTMState(h, c)
    state, ys = net.unroll(params, start, jnp.asarray(XS))
    close(ys, expected)
    close(state.h, h_n)
    close(state.c, c_n)
    assert not np.any(params.b)
    again = interop.to_equinox(params, use_bias=False)
    first, _ = again(jnp.asarray(XS[0, 0]), (h[0], c[0]))
    _, y = net.step(params, start, jnp.asarray(XS[0]))
    close(y[0], first)


# Keras.


@runs("`LSTM(H, return_sequences=True)`", "`return_state=True`", "`stateful=True`")
@runs("`go_backwards=True`", "`Masking`, `mask=`")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_of_keras(keras):
    xs = np.moveaxis(XS, 0, 1)
    layer = keras.layers.LSTM(H, return_sequences=True, return_state=True)
    expected, h, c = layer(xs)
    net, params = interop.from_keras(layer)
    state, ys = net.unroll(params, None, jnp.asarray(XS))
    close(jnp.moveaxis(ys, 0, 1), expected)
    close(state.h, h)
    close(state.c, c)
    # The state of one call goes to the next.
    state, first = net.unroll(params, None, jnp.asarray(XS[:2]))
    _, rest = net.unroll(params, state, jnp.asarray(XS[2:]))
    close(jnp.concatenate([first, rest]), ys)
    stateful = keras.layers.LSTM(H, return_sequences=True, stateful=True)
    stateful.build((B, 2, I))
    stateful.set_weights(layer.get_weights())
    parts = [stateful(part) for part in (xs[:, :2], xs[:, 2:])]
    close(jnp.moveaxis(ys, 0, 1), jnp.concatenate(parts, axis=1))

    masked, _, _ = layer(xs, mask=np.asarray(MASK).T)
    _, ys = net.unroll(params, None, jnp.asarray(XS), mask=MASK)
    inside = np.asarray(MASK).T[..., None]
    close(jnp.moveaxis(ys, 0, 1), masked * inside)
    close(masked[1, 5], masked[1, 3])

    back = keras.layers.LSTM(H, return_sequences=True, go_backwards=True)
    back.build((B, T, I))
    back.set_weights(layer.get_weights())
    _, ys = jaxrnn.unroll(jaxrnn.lstm, params, None, jnp.asarray(XS), reverse=True)
    close(jnp.moveaxis(ys, 0, 1)[:, ::-1], back(xs))


@runs("`Bidirectional(layer)`", "`reset_after=False`")
@runs("`activation=`, `recurrent_activation=`")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_options_of_keras(keras):
    xs = np.moveaxis(XS, 0, 1)
    gru = keras.layers.GRU(
        H, return_sequences=True, reset_after=False, activation="softsign"
    )
    layer = keras.layers.Bidirectional(gru, merge_mode="mul")
    expected = layer(xs)
    net, params = interop.from_keras(layer)
    cell = jaxrnn.make_gru(reset_after=False, activation="softsign")
    assert net == layers.bidirectional(layers.recurrent(cell, H), "product")
    _, ys = net.unroll(params, None, jnp.asarray(XS))
    close(jnp.moveaxis(ys, 0, 1), expected)


# Haiku.


def made(hk, core_of):
    """The parameters and the outputs of a core, from its initial state."""

    def run(xs, reset):
        core = core_of()
        return hk.dynamic_unroll(core, (xs, reset), core.initial_state(B))

    network = hk.without_apply_rng(hk.transform(run))
    given = jnp.asarray(XS), jnp.asarray(RESET)
    params = network.init(jax.random.key(0), *given)
    return params, network.apply(params, *given)


@runs("`hk.dynamic_unroll(core, xs, state)`", "`hk.ResetCore(core)` on `(xs, reset)`")
@runs("`core.initial_state(B)`", "`hk.LSTMState(hidden, cell)`", "`hk.GRU`")
@runs("`hk.VanillaRNN`: relu")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_cores_of_haiku(hk):
    cells = {
        "LSTM": jaxrnn.lstm,
        "GRU": jaxrnn.make_gru(reset_after=False),
        "VanillaRNN": jaxrnn.make_elman("relu"),
    }
    for name, cell in cells.items():
        core = getattr(hk, name)
        weights, (expected, last) = made(
            hk, lambda core=core: hk.ResetCore(core(H, name="core"))
        )
        (path, *_) = weights
        net, params = interop.from_haiku(weights, name=path.removesuffix("/linear"))
        assert net == layers.recurrent(cell, H)
        options = {"reset": jnp.asarray(RESET)}
        start = net.initial_state(params, (B,))
        state, ys = net.unroll(params, start, jnp.asarray(XS), **options)
        close(ys, expected)
        close(net.unroll(params, None, jnp.asarray(XS), **options)[1], ys)
        if name == "LSTM":
            close(state.h, last.hidden)
            close(state.c, last.cell)
        if name == "GRU":
            close(params.b[H : 2 * H], -weights[path]["b"][:H])


def test_every_row_is_run():
    """A row of the pages that no test names, or a name that no page has, fails."""
    found = set()
    for page in PAGES:
        for line in re.findall(r"^\|(.*)\|$", page.read_text(), re.MULTILINE):
            first = line.split(" | ")[0].strip()
            if set(first) - {"-", "|"}:
                found.add(first)
    heads = {"PyTorch", "PyTorch, layer k", "library", "Flax"} | LAYOUTS
    assert found - heads == ROWS
