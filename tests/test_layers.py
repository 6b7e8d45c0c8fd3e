"""Layers: unrolled, step by step, in parts, both ways, over windows, on meshes."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn import layers, train
from tests.cases import copied, steps

SIZE, BATCH, IN = 6, 3, 4
KEY = jax.random.key(7)
noisy_gru = layers.zoneout(layers.recurrent_dropout(jaxrnn.gru, 0.3), 0.2)
LAYERS = {
    "recurrent": layers.recurrent(jaxrnn.lstm, 5),
    "learned initial state": layers.recurrent(jaxrnn.gru, 5, learn_initial_state=True),
    "all states": layers.recurrent(jaxrnn.lstm, 5, return_states=True),
    "noisy, all states": layers.recurrent(
        layers.zoneout(jaxrnn.lstm, 0.3), 5, return_states=True
    ),
    "dropout": layers.dropout(0.4),
    "variational dropout": layers.dropout(0.4, variational=True),
    "residual": layers.residual(layers.recurrent(jaxrnn.elman, IN)),
    "layer_norm": layers.layer_norm(),
    "stack": layers.stack(
        layers.dense(5),
        layers.recurrent(noisy_gru, 5, learn_initial_state=True),
        layers.dropout(0.4),
        layers.residual(
            layers.stack(layers.layer_norm(), layers.recurrent(jaxrnn.lstm, 5))
        ),
        layers.dense(3),
    ),
}
each_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def made(layer, size=SIZE, dtype=jnp.float64, seed=0):
    """Parameters and a state without zeros, and inputs."""
    draws = np.random.default_rng(seed)

    def moved(a):
        return a + jnp.asarray(0.3 * draws.standard_normal(a.shape), a.dtype)

    params = jax.tree.map(moved, layer.init(jax.random.key(0), IN, dtype))
    # Counted steps stay what they are.
    state = jax.tree.map(
        lambda a: moved(a) if a.ndim > 1 else a, layer.initial_state(params, (BATCH,))
    )
    xs = jnp.asarray(draws.standard_normal((size, BATCH, IN)), dtype)
    return params, state, xs


def step_by_step(layer, params, state, xs, mask, reset, key):
    def over_step(state, inputs):
        x, mask, reset = inputs
        return layer.step(params, state, x, mask=mask, reset=reset, key=key)

    return jax.lax.scan(over_step, state, (xs, mask, reset))


def assert_close(got, expected, rtol=1e-10):
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=1e-12)


MASK, RESET = steps(0.7, SIZE, seed=1), steps(0.3, SIZE, seed=2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("key", [None, KEY], ids=["quiet", "noisy"])
@each_layer
def test_steps_and_parts_are_the_whole(layer, key):
    """Values, states, and the gradient; garbage at masked steps reaches none."""
    params, state, xs = made(layer)
    garbage = jnp.where(MASK[..., None], xs, jnp.nan)

    def whole(params, state, xs):
        return layer.unroll(params, state, xs, mask=MASK, reset=RESET, key=key)

    def parts(params, state, xs):
        ys = []
        for at in (slice(0, 2), slice(2, SIZE)):
            options = {"mask": MASK[at], "reset": RESET[at], "key": key}
            state, y = layer.unroll(params, state, xs[at], **options)
            ys.append(y)
        return state, jax.tree.map(lambda *a: jnp.concatenate(a), *ys)

    def by_steps(params, state, xs):
        return step_by_step(layer, params, state, xs, MASK, RESET, key)

    def loss_and_results(run):
        def loss_of(params, state, xs):
            results = run(params, state, xs)
            loss = sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(results))
            return loss, results

        return jax.jit(jax.value_and_grad(loss_of, (0, 1, 2), has_aux=True))

    expected = loss_and_results(by_steps)(params, state, xs)
    assert_close(loss_and_results(whole)(params, state, garbage), expected)
    assert_close(loss_and_results(parts)(params, state, xs), expected)
    outputs = jax.tree.leaves(expected[0][1][1])
    assert not any(a[~MASK].any() for a in outputs)


@pytest.mark.usefixtures("x64")
def test_all_states():
    layer = LAYERS["all states"]
    params, state, xs = made(layer)
    last, states = layer.unroll(params, state, xs)
    expected, hs = jaxrnn.unroll(jaxrnn.lstm, params, state, xs)
    assert_close((states.h, jax.tree.map(lambda s: s[-1], states)), (hs, expected))
    chex.assert_trees_all_equal(last, jax.tree.map(lambda s: s[-1], states))


@pytest.mark.usefixtures("x64")
def test_a_learned_state_is_learned():
    """From `state=None` and at resets; equal to passing it by hand."""
    layer = LAYERS["learned initial state"]
    params, _, xs = made(layer)

    def loss_of(params):
        return jnp.sum(jnp.sin(layer.unroll(params, None, xs, reset=RESET)[1]))

    def by_hand(params):
        first = jaxrnn.GRUState(jnp.tile(params.initial_state.h, (BATCH, 1)))
        options = {"reset": RESET, "reset_state": first}
        _, hs = jaxrnn.unroll(jaxrnn.gru, params.cell, first, xs, **options)
        return jnp.sum(jnp.sin(hs))

    got = jax.jit(jax.grad(loss_of))(params)
    assert_close(got, jax.jit(jax.grad(by_hand))(params))
    assert got.initial_state.h.all()


@pytest.mark.usefixtures("x64")
def test_the_engine_is_an_argument():
    """The oracle, and another store, give the same gradient, noise and all."""

    def grads(engine):
        net = layers.stack(
            layers.recurrent(noisy_gru, 5, engine=engine),
            layers.bidirectional(layers.recurrent(jaxrnn.lstm, 4, engine=engine)),
        )
        params, state, xs = made(net)

        def loss_of(params, state, xs):
            options = {"mask": MASK, "reset": RESET, "key": KEY}
            return jnp.sum(jnp.sin(net.unroll(params, state, xs, **options)[1]))

        return jax.jit(jax.value_and_grad(loss_of, (0, 2)))(params, state, xs)

    expected = grads(jaxrnn.unroll_autodiff)
    assert_close(grads(jaxrnn.unroll), expected)
    assert_close(grads(functools.partial(jaxrnn.unroll, store="boundaries")), expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("merge", ["concatenate", "sum", "mean", "product"])
def test_both_ways_under_a_mask_are_each_sequence_alone(merge):
    layer = layers.bidirectional(layers.recurrent(jaxrnn.gru, 5), merge)
    params, state, xs = made(layer)
    lengths = (4, 0, SIZE)
    mask = jaxrnn.lengths_to_mask(jnp.array(lengths), SIZE)
    last, ys = layer.unroll(params, state, xs, mask=mask)
    merged = {
        "concatenate": lambda a, b: jnp.concatenate([a, b], -1),
        "sum": lambda a, b: a + b,
        "mean": lambda a, b: (a + b) / 2,
        "product": lambda a, b: a * b,
    }[merge]
    for b, length in enumerate(lengths):
        one = [jax.tree.map(lambda s, b=b: s[b], s) for s in state]
        own = xs[:length, b]
        after, ahead = jaxrnn.unroll(jaxrnn.gru, params.forward, one[0], own)
        before, back = jaxrnn.unroll(jaxrnn.gru, params.backward, one[1], own[::-1])
        assert_close(ys[:length, b], merged(ahead, back[::-1]))
        assert not ys[length:, b].any()
        got = jax.tree.map(lambda s, b=b: s[b], (last.forward, last.backward))
        assert_close(got, (after, before))


@pytest.mark.usefixtures("x64")
def test_both_ways_nothing_crosses_a_reset():
    """Packed sequences: each gives what it gives alone, in either direction."""
    layer = layers.stack(
        layers.bidirectional(layers.recurrent(jaxrnn.lstm, 5)),
        layers.bidirectional(layers.recurrent(jaxrnn.gru, 3)),
    )
    params, _, xs = made(layer)
    reset = jnp.zeros((SIZE, BATCH), bool).at[jnp.array([0, 2])].set(True)
    _, ys = layer.unroll(params, None, xs, reset=reset)
    alone = [layer.unroll(params, None, part)[1] for part in (xs[:2], xs[2:])]
    assert_close(ys, jnp.concatenate(alone))


def reader(size=IN, **options):
    return layers.stack(
        layers.embedding(5, size), layers.recurrent(jaxrnn.lstm, 6, **options)
    )


NETS_OF_IDS = {
    "recurrent": reader(),
    "learned": reader(learn_initial_state=True),
    "both ways": layers.stack(
        layers.embedding(5, IN),
        layers.bidirectional(
            layers.stack(layers.recurrent(jaxrnn.gru, 6), layers.dense(3))
        ),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("net", NETS_OF_IDS.values(), ids=NETS_OF_IDS)
def test_an_embedding_is_folded_into_what_reads_it(net):
    """The same numbers and gradients as rows of the table, from products of V rows."""
    params = net.init(jax.random.key(0), dtype=jnp.float64)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 5, (SIZE, BATCH)))
    # The layers by themselves: the second one cannot know where its inputs come from.
    first, second = net.unroll.options.layers

    def apart(params):
        _, xs = first.unroll(params[0], (), ids, mask=MASK)
        return jnp.sum(jnp.sin(second.unroll(params[1], None, xs, mask=MASK)[1]))

    def folded(params):
        return jnp.sum(jnp.sin(net.unroll(params, None, ids, mask=MASK)[1]))

    got, expected = (
        jax.jit(jax.value_and_grad(loss_of))(params) for loss_of in (folded, apart)
    )
    assert_close(got, expected)
    products = [
        line.split(" = ")[0]
        for line in str(jax.make_jaxpr(folded)(params)).splitlines()
        if "dot_general[" in line
    ]
    width = {"both ways": 18}.get(
        next(n for n in NETS_OF_IDS if NETS_OF_IDS[n] is net), 24
    )
    assert any(f"[5,{width}]" in line for line in products)
    assert not any(f"[{SIZE},{BATCH},{width}]" in line for line in products)


def test_a_long_table_is_not_folded():
    net = layers.stack(layers.embedding(50, IN), layers.recurrent(jaxrnn.lstm, 6))
    params = net.init(jax.random.key(0))
    text = str(jax.make_jaxpr(net.unroll)(params, None, jnp.zeros((SIZE, BATCH), int)))
    assert "[50,24]" not in text


def test_ids_outside_the_vocabulary():
    """An error where they are known; else zeros, as in `unroll`, folded or not."""
    net = reader()
    params = net.init(jax.random.key(0))
    ids = jnp.zeros((SIZE, 1), int).at[2:4, 0].set(jnp.array([-1, 5]))
    with pytest.raises(ValueError, match="ids must be between 0 and V - 1 = 4, but"):
        net.unroll(params, None, ids)
    embed = layers.embedding(5, IN)
    _, rows = jax.jit(embed.unroll)(params[0], (), ids)
    assert not rows[2:4].any() and rows[4].all()
    folded = jax.jit(net.unroll)(params, None, ids)
    stepped = jax.jit(
        lambda: jax.lax.scan(
            lambda s, id: net.step(params, s, id), net.initial_state(params, (1,)), ids
        )
    )()
    chex.assert_trees_all_close(folded, stepped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("leading", [(), (3,), (5, 2, 3)])
def test_dense_and_layer_norm_on_any_axes(leading):
    xs = jax.random.normal(jax.random.key(1), (*leading, 4))
    dense, norm = layers.dense(6), layers.layer_norm(1e-3)
    params = dense.init(jax.random.key(0), 4)._replace(b=jnp.arange(6.0))
    expected = np.einsum("...i,io->...o", xs, params.w) + np.arange(6.0)
    np.testing.assert_allclose(
        dense.step(params, (), xs)[1], expected, rtol=1e-5, atol=1e-6
    )
    params = norm.init(jax.random.key(0), 4)._replace(offset=jnp.arange(4.0))
    mean, var = xs.mean(-1, keepdims=True), xs.var(-1, keepdims=True)
    expected = (xs - mean) / np.sqrt(var + 1e-3) + np.arange(4.0)
    got = norm.step(params, (), xs)[1]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_initial_scales_and_dtypes():
    params = layers.dense(200).init(jax.random.key(0), 300, jnp.bfloat16)
    assert params.w.dtype == params.b.dtype == jnp.bfloat16
    # Uniform on ±√(6/(in+out)): variance 2/(in+out); 60,000 draws are within 2 %.
    np.testing.assert_allclose(params.w.astype(jnp.float32).var(), 2 / 500, rtol=0.02)
    table = layers.embedding(200, 300).init(jax.random.key(0)).table
    np.testing.assert_allclose(table.std(), 1.0, rtol=0.02)


def test_dropout_keeps_the_mean_and_differs_by_step():
    layer, xs = layers.dropout(0.25), jnp.ones((50, 4, 100))
    _, ys = layer.unroll((), None, xs, key=KEY)
    np.testing.assert_allclose(np.unique(ys), [0, 1 / 0.75], rtol=1e-6)
    # 20,000 draws: three standard deviations of the mean are 0.0123.
    assert abs(float(ys.mean()) - 1) < 0.0123
    assert (ys[0] != ys[1]).any()
    _, ys = layers.dropout(0.25, variational=True).unroll((), None, xs, key=KEY)
    assert (ys == ys[0]).all() and (ys[0, 0] != ys[0, 1]).any()


NET = layers.stack(
    layers.recurrent(layers.zoneout(jaxrnn.gru, 0.2), 5),
    layers.dropout(0.3),
    layers.recurrent(jaxrnn.lstm, 4),
    layers.dense(2),
)


@pytest.mark.usefixtures("x64")
def test_over_windows_under_one_key():
    """Checkpointed windows give the whole gradient, masks of the noise included; cut
    ones give the sum over calls that carry the state."""
    params, state, xs = made(NET, 12)
    reset = steps(0.2, 12, seed=5)

    def loss_fn(params, state, batch):
        xs, reset = batch
        state, ys = NET.unroll(params, state, xs, reset=reset, key=KEY)
        return jnp.sum(jnp.sin(ys)), state

    whole = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    expected = whole(params, state, (xs, reset))
    checkpointed = jaxrnn.checkpointed_value_and_grad(loss_fn, 3)
    assert_close(jax.jit(checkpointed)(params, state, (xs, reset)), expected)

    truncated = jax.jit(jaxrnn.truncated_value_and_grad(loss_fn, 6))
    (loss, last), grads = truncated(params, state, (xs, reset))
    (first, between), by_first = whole(params, state, (xs[:6], reset[:6]))
    (second, end), by_second = whole(params, between, (xs[6:], reset[6:]))
    sums = first + second, jax.tree.map(jnp.add, by_first, by_second)
    assert_close(((loss, grads), last), (sums, end))


def test_it_trains():
    """`make_step` over two devices is that over one, and the loss falls."""
    params, state, xs = made(NET, dtype=jnp.float32)
    xs, state = xs[:, :2], jax.tree.map(lambda s: s[:2], state)

    def loss_fn(params, state, xs):
        state, ys = NET.unroll(params, state, xs, key=KEY)
        return jnp.mean((ys - xs[..., :2]) ** 2), state

    optimizer = optax.adam(1e-2)
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        step = train.make_step(
            jax.value_and_grad(loss_fn, has_aux=True), optimizer, devices
        )
        learner, losses = train.init_learner(params, optimizer), []
        for _ in range(20):
            learner, _, metrics = step(learner, copied(state), xs)
            losses.append(float(metrics.loss))
        assert losses[-1] < 0.8 * losses[0]
        results.append(losses)
    np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_vmap_over_networks_and_sequences():
    params, state, xs = made(NET)
    several = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    run = jax.vmap(lambda p: NET.unroll(p, state, xs, key=KEY), 0)
    expected = NET.unroll(jax.tree.map(lambda p: p[1], several), state, xs, key=KEY)
    got = jax.tree.map(lambda a: a[1], jax.jit(run)(several))
    assert_close(got, expected)
    each = jax.vmap(lambda s, x: NET.unroll(params, s, x), (0, 1), (0, 1))
    assert_close(jax.jit(each)(state, xs), NET.unroll(params, state, xs))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_on_a_mesh(kind):
    params, state, xs = made(NET, dtype=jnp.float32)
    xs, state = xs[:, :2], jax.tree.map(lambda s: s[:2], state)

    def loss_of(params, state, xs):
        mask = jnp.ones_like(xs[..., 0], bool)
        _, ys = NET.unroll(params, state, xs, mask=mask, key=KEY)
        return jnp.sum(jnp.sin(ys))

    by = jax.jit(jax.grad(loss_of, (0, 1, 2)))
    expected = by(params, state, xs)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        given = [
            jax.device_put(tree, NamedSharding(mesh, spec))
            for tree, spec in zip(
                (params, state, xs), (P(), P("data"), P(None, "data")), strict=True
            )
        ]
        got = by(*given)
    chex.assert_trees_all_close(
        jax.device_get(got), jax.device_get(expected), rtol=1e-4, atol=1e-5
    )


def test_exported_with_symbolic_sizes():
    net = layers.stack(
        layers.embedding(5, 3),
        layers.bidirectional(layers.recurrent(jaxrnn.gru, 4)),
        layers.dropout(0.3),
        layers.layer_norm(),
        layers.dense(2),
    )
    params = net.init(jax.random.key(0))
    size, batch = export.symbolic_shape("T, B")
    shapes = (
        jax.eval_shape(lambda: params),
        jax.ShapeDtypeStruct((size, batch), jnp.int32),
        jax.ShapeDtypeStruct((size, batch), jnp.bool_),
    )

    def run(params, ids, mask):
        return net.unroll(params, None, ids, mask=mask)

    reloaded = export.deserialize(export.export(jax.jit(run))(*shapes).serialize())
    ids, mask = jnp.ones((SIZE, BATCH), jnp.int32), steps(0.7, SIZE)
    chex.assert_trees_all_close(
        reloaded.call(params, ids, mask), run(params, ids, mask), rtol=1e-5, atol=1e-6
    )


def test_layers_made_alike_are_equal_and_unlike_are_not():
    """So `jit` does not compile twice; they can be pickled."""

    def net(rate):
        cell = layers.zoneout(jaxrnn.gru, 0.2)
        return layers.stack(layers.recurrent(cell, 5), layers.dropout(rate))

    assert net(0.3) == net(0.3) != net(0.4) and hash(net(0.3)) == hash(net(0.3))
    assert pickle.loads(pickle.dumps(net(0.3))) == net(0.3)
    # Options that are equal as tuples.
    assert layers.dense(4) != layers.recurrent(jaxrnn.gru, 4)
    assert layers.dense(1) != layers.layer_norm(1.0)
    one = layers.recurrent_dropout(jaxrnn.gru, 0.2, variational=False)
    assert one != layers.candidate_dropout(jaxrnn.gru, 0.2, variational=False)


RECURRENT = layers.recurrent(jaxrnn.lstm, 5)
PARAMS = NET.init(jax.random.key(0), IN)
XS = jnp.ones((SIZE, BATCH, IN))
DENSE = layers.dense(5)
DENSE_PARAMS = DENSE.init(jax.random.key(0), IN)
EMBEDDING = layers.embedding(5, 3)
TABLE = EMBEDDING.init(jax.random.key(0))
REFUSED = {
    "a cell in a stack": (
        lambda: layers.stack(jaxrnn.lstm),
        r"`layers\[0\]` must be a jaxrnn.layers.Layer, .*a Cell. .*layers.recurrent",
    ),
    "no layers": (lambda: layers.stack(), "`stack` must have at least one layer"),
    "a layer in a layer": (
        lambda: layers.recurrent(RECURRENT, 5),
        "`cell` must be a jaxrnn.Cell, such as jaxrnn.lstm, but got a Layer",
    ),
    "no input size": (
        lambda: NET.init(jax.random.key(0)),
        "`input_size` must be given to the `init` of a recurrent layer",
    ),
    "another vocabulary": (
        lambda: EMBEDDING.init(jax.random.key(0), 7),
        "`input_size` must be None or the vocabulary, 5, .* but got 7",
    ),
    "a step both ways": (
        lambda: layers.bidirectional(RECURRENT).step(PARAMS, None, XS[0]),
        "a bidirectional layer has no `step`: it reads each sequence from its end",
    ),
    "another merge": (
        lambda: layers.bidirectional(RECURRENT, "add"),
        "`merge` must be one of concatenate, sum, mean, product, but got 'add'",
    ),
    "residual of other sizes": (
        lambda: layers.residual(DENSE).init(jax.random.key(0), 4),
        r"as many outputs as inputs, but has 5 for 4. Put layers.dense\(4\) at its end",
    ),
    "parameters of another stack": (
        lambda: NET.unroll(PARAMS[:2], None, XS),
        "`params` of a stack must be a tuple with .* 4 layers, but got 2 entries",
    ),
    "a state without its count": (
        lambda: NET.unroll(PARAMS, (jaxrnn.GRUState(XS), (), (), ()), XS),
        r"`state` must be NoisyState\(cell, steps\) .* but got a GRUState",
    ),
    "a mask of other axes": (
        lambda: DENSE.unroll(DENSE_PARAMS, (), XS, mask=steps(0.5, SIZE).T),
        "`mask` must have shape .* Time comes first: transpose it",
    ),
    "a key that is none": (
        lambda: layers.dropout(0.5).unroll((), None, XS, key=3),
        "`key` must be a random key, but got 3",
    ),
    "a rate of 1": (
        lambda: layers.dropout(1.0),
        "`rate` must be at least 0 and below 1, but got 1.0",
    ),
    "ids for dense": (
        lambda: DENSE.unroll(DENSE_PARAMS, (), jnp.ones((SIZE, BATCH), int)),
        r"`xs` must be floating, .*int32 .*xs.astype\('float32'\); for ids, put",
    ),
    "dense of another size": (
        lambda: DENSE.unroll(DENSE_PARAMS, (), XS[..., :3]),
        r"the last axis of `xs` must be 4, the first of `w` \(4, 5\), .*\(6, 3, 3\)",
    ),
    "dense of a dict": (
        lambda: DENSE.unroll(DENSE_PARAMS._asdict(), (), XS),
        r"must be DenseParams, but got a dict. .*from a dict: DenseParams\(\*\*params",
    ),
    "dense without a bias": (
        lambda: DENSE.unroll(DENSE_PARAMS._replace(b=None), (), XS),
        "`params.b` must be an array, but got None",
    ),
    "dense of integers": (
        lambda: DENSE.unroll(DENSE_PARAMS._replace(w=jnp.ones((4, 5), int)), (), XS),
        "`params.w` must be floating, but got int32",
    ),
    "dense of a vector": (
        lambda: DENSE.unroll(DENSE_PARAMS._replace(w=jnp.ones(5)), (), XS),
        r"`params.w` must have shape \(I, O\) and `params.b` \(O,\), but got \(5,\)",
    ),
    "an embedding of vectors": (
        lambda: EMBEDDING.unroll(TABLE, (), XS),
        "`xs` of an embedding must be ids, integers, but got float32",
    ),
    "an embedding with a vector": (
        lambda: EMBEDDING.unroll(TABLE._replace(table=jnp.ones(3)), (), XS.astype(int)),
        r"`params.table` must have shape \(V, I\), but got \(3,\)",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
