"""Decoding: searches that are exact where the answer is known, and draws that are fair.

The answers come from a loop of `unroll` over whole sequences, or over all of them.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn import decoding, layers

V, SIZE, END, BATCH = 4, 5, 2, 3
NET = layers.stack(
    layers.embedding(V, 3),
    layers.recurrent(jaxrnn.lstm, 6),
    layers.dropout(0.5),
    layers.recurrent(layers.zoneout(jaxrnn.gru, 0.3), 5),
    layers.dense(V),
)


@pytest.fixture(scope="module")
def prompted():
    """Parameters, and the state and logits `[B, ...]` after a prompt."""
    params = jax.tree.map(lambda a: 2 * a, NET.init(jax.random.key(0)))
    prompt = jax.random.randint(jax.random.key(1), (3, BATCH), 0, V)
    state, logits = NET.unroll(params, None, prompt)
    return params, state, logits[-1]


def all_scores(params, state, logits, end=END):
    """Every sequence `[N, count, B]` with its log-probability and length.

    Each stands once: what follows an end id is the end id.
    """
    every = itertools.product(range(V), repeat=SIZE)
    sequences = []
    for ids in every:
        ended = ids.index(end) if end in ids else SIZE
        if all(i == end for i in ids[ended:]):
            sequences.append(ids)
    ids = np.array(sequences).T
    lengths = np.minimum((ids != end).sum(0) + 1, SIZE)
    scores = []
    for b in range(BATCH):
        repeated = jax.tree.map(
            lambda a, b=b: jnp.repeat(a[b][None], ids.shape[1], 0), state
        )
        first = jnp.broadcast_to(logits[b], (1, ids.shape[1], V))
        _, after = NET.unroll(params, repeated, jnp.asarray(ids[:-1]))
        logp = np.asarray(jax.nn.log_softmax(jnp.concatenate([first, after])))
        each = np.take_along_axis(logp, ids[..., None], -1)[..., 0]
        steps = np.arange(SIZE)[:, None] < lengths
        scores.append(np.where(steps, each, 0).sum(0))
    return ids, lengths, np.stack(scores, 1)


@pytest.mark.parametrize("end", [None, END])
def test_greedy_takes_the_likeliest_id(prompted, end):
    """By a plain loop over whole sequences; a beam of one finds the same."""
    params, state, logits = prompted
    got = decoding.greedy(NET, params, state, logits, SIZE, end=end)
    for b in range(BATCH):
        own, prediction = jax.tree.map(lambda a, b=b: a[b], (state, logits))
        score, ids = 0.0, []
        while len(ids) < SIZE and end not in ids[-1:]:
            ids.append(int(jnp.argmax(prediction)))
            score += float(jax.nn.log_softmax(prediction)[ids[-1]])
            prediction = NET.unroll(params, own, jnp.array(ids))[1][-1]
        assert got.lengths[b] == len(ids)
        padded = ids + [end] * (SIZE - len(ids))
        assert got.ids[:, b].tolist() == padded
        np.testing.assert_allclose(got.scores[b], score, rtol=1e-5)
        np.testing.assert_allclose(got.logits[b], prediction, rtol=1e-4, atol=1e-5)
    beam = decoding.beam_search(NET, params, state, logits, SIZE, 1, end=end)
    squeezed = jax.tree.map(lambda a: a[..., 0], beam[:3])
    chex.assert_trees_all_close(squeezed, got[:3], rtol=1e-6)
    # The one axis of the beam is the second one of state and logits.
    squeezed = jax.tree.map(lambda a: a[:, 0], beam[3:])
    chex.assert_trees_all_close(squeezed, got[3:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(prompted, penalty):
    """And the ones after it, each once, in order."""
    width = V ** (SIZE - 1)
    found = decoding.beam_search(
        NET, *prompted, SIZE, width, end=END, length_penalty=penalty
    )
    ids, lengths, scores = all_scores(*prompted)
    for b in range(BATCH):
        compared = scores[:, b] / lengths**penalty
        order = np.argsort(-compared)[: min(width, 20)]
        np.testing.assert_array_equal(found.ids[:, b, : len(order)], ids[:, order])
        np.testing.assert_array_equal(found.lengths[b, : len(order)], lengths[order])
        np.testing.assert_allclose(
            found.scores[b, : len(order)], scores[order, b], rtol=1e-4
        )


def test_a_beam_is_scored_as_unroll_scores_it(prompted):
    """Ids and scores of a narrow beam belong together, and its state is theirs."""
    params, state, logits = prompted
    found = decoding.beam_search(NET, params, state, logits, SIZE, 3, end=END)
    ids, _, scores = all_scores(*prompted)
    known = {tuple(s): scores[n] for n, s in enumerate(ids.T.tolist())}
    for b, k in itertools.product(range(BATCH), range(3)):
        sequence = found.ids[:, b, k].tolist()
        np.testing.assert_allclose(found.scores[b, k], known[tuple(sequence)][b], 1e-4)
        own = jax.tree.map(lambda a, b=b: a[b], state)
        length = int(found.lengths[b, k])
        own, after = NET.unroll(params, own, found.ids[:length, b, k])
        kept = jax.tree.map(lambda a, b=b, k=k: a[b, k], (found.state, found.logits))
        chex.assert_trees_all_close(kept, (own, after[-1]), rtol=1e-4, atol=1e-5)
    assert jnp.all(jnp.diff(found.scores) <= 0)


def test_more_width_than_sequences(prompted):
    """The first step has V sequences; the rest of the beam is empty."""
    found = decoding.beam_search(NET, *prompted, 1, V + 2, end=END)
    assert jnp.all(jnp.isneginf(found.scores) == (jnp.arange(V + 2) >= V))
    np.testing.assert_array_equal(np.sort(found.ids[0, :, :V]), [[*range(V)]] * BATCH)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": 1e-30}, {"top_k": 1}, {"top_p": 1e-6}],
    ids=str,
)
def test_a_draw_without_choice_is_greedy(prompted, options):
    key = jax.random.key(5)
    got = decoding.sample(NET, *prompted, SIZE, key, end=END, **options)
    chex.assert_trees_all_equal(got, decoding.greedy(NET, *prompted, SIZE, end=END))


def test_restrictions_keep_what_they_should():
    """The nucleus against the sums of all subsets' masses; ties keep the first ids."""
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3], [0.97, 0.01, 0.01, 0.01]]))
    for p in (0.05, 0.35, 0.65, 0.85, 0.95, 1.0):
        kept = np.isfinite(decoding.keep_nucleus(logits, p))
        for mass, own in zip(np.exp(logits), kept, strict=True):
            sets = [
                subset
                for count in range(1, V + 1)
                for subset in itertools.combinations(range(V), count)
                if mass[list(subset)].sum() >= p - 1e-6
            ]
            smallest = min(map(len, sets))
            heaviest = max(mass[list(s)].sum() for s in sets if len(s) == smallest)
            assert own.sum() == smallest
            np.testing.assert_allclose(mass[own].sum(), heaviest, rtol=1e-6)
    got = decoding.keep_top_k(jnp.array([1.0, 3.0, 3.0, 2.0, 3.0]), 2)
    np.testing.assert_array_equal(got, [-np.inf, 3, 3, -np.inf, -np.inf])
    np.testing.assert_array_equal(decoding.keep_top_k(logits, V + 1), logits)


def test_draws_have_the_probabilities(prompted):
    """Frequencies of the first id in 4,000 draws, within five standard errors."""
    params = prompted[0]
    state, logits = jax.tree.map(lambda a: a[0], prompted[1:])
    keys = jax.random.split(jax.random.key(3), 4_000)

    def first(key):
        options = {"temperature": 0.7, "top_k": 3}
        return decoding.sample(NET, params, state, logits, 1, key, **options).ids

    counts = np.bincount(jax.jit(jax.vmap(first))(keys)[:, 0], minlength=V)
    likely = np.exp(np.asarray(logits, np.float64) / 0.7)
    likely[np.argmin(likely)] = 0
    likely /= likely.sum()
    error = np.sqrt(likely * (1 - likely) / len(keys))
    assert np.all(np.abs(counts / len(keys) - likely) <= 5 * error)


def test_each_step_draws_anew(prompted):
    """From a network that predicts all ids alike."""
    params, state, logits = jax.tree.map(jnp.zeros_like, prompted)
    ids = decoding.sample(NET, params, state, logits, 30, jax.random.key(0)).ids
    assert all(len(set(own.tolist())) > 1 for own in ids.T)


def test_nothing_follows_the_end(prompted):
    """Of draws, which end at different steps; scores count what comes before."""
    params, state, logits = prompted
    many = jax.tree.map(lambda a: jnp.repeat(a, 20, 0), (state, logits))
    got = decoding.sample(NET, params, *many, SIZE, jax.random.key(2), end=END)
    before = np.arange(SIZE)[:, None] < np.asarray(got.lengths) - 1
    ids = np.asarray(got.ids)
    assert (ids[before] != END).all()
    after = np.arange(SIZE)[:, None] >= np.asarray(got.lengths)
    assert (ids[after] == END).all() and after.any()
    last = ids[np.asarray(got.lengths) - 1, np.arange(ids.shape[1])]
    assert (last[np.asarray(got.lengths) < SIZE] == END).all()
    every, _, scores = all_scores(*prompted)
    known = {tuple(s): scores[n] for n, s in enumerate(every.T.tolist())}
    expected = [known[tuple(s)][n // 20] for n, s in enumerate(ids.T.tolist())]
    np.testing.assert_allclose(got.scores, expected, rtol=1e-4)


def test_a_batch_is_its_sequences(prompted):
    """Alone, and with several batch axes."""
    params, state, logits = prompted

    def run(state, logits):
        greedy = decoding.greedy(NET, params, state, logits, SIZE, end=END)
        beam = decoding.beam_search(NET, params, state, logits, SIZE, 3, end=END)
        return greedy.ids, beam.ids, beam.scores

    whole = run(state, logits)
    for b in range(BATCH):
        alone = run(*jax.tree.map(lambda a, b=b: a[b], (state, logits)))
        own = whole[0][:, b], whole[1][:, b], whole[2][b]
        chex.assert_trees_all_close(alone, own, rtol=1e-5)
    tall = run(*jax.tree.map(lambda a: a[:, None], (state, logits)))
    own = whole[0][:, :, None], whole[1][:, :, None], whole[2][:, None]
    chex.assert_trees_all_close(tall, own, rtol=1e-5)


def test_calls_go_on(prompted):
    """Two calls of a greedy search are one, and are traced once."""
    params, state, logits = prompted

    @jax.jit
    @chex.assert_max_traces(1)
    def part(state, logits):
        return decoding.greedy(NET, params, state, logits, 3)

    first = part(state, logits)
    second = part(first.state, first.logits)
    whole = decoding.greedy(NET, params, state, logits, 6)
    np.testing.assert_array_equal(jnp.concatenate([first.ids, second.ids]), whole.ids)
    total = first.scores + second.scores
    np.testing.assert_allclose(total, whole.scores, rtol=1e-5)


def test_options_are_not_static(prompted):
    """Another temperature compiles nothing again."""

    @jax.jit
    @chex.assert_max_traces(1)
    def draw(temperature, top_p):
        options = {"temperature": temperature, "top_p": top_p, "end": END}
        return decoding.sample(NET, *prompted, SIZE, jax.random.key(1), **options)

    cold = draw(0.0, 0.9)
    greedy = decoding.greedy(NET, *prompted, SIZE, end=END)
    np.testing.assert_array_equal(cold.ids, greedy.ids)
    assert (draw(3.0, 1.0).ids != cold.ids).any()


@pytest.mark.parametrize("noise_key", [None, jax.random.key(8)], ids=["quiet", "noisy"])
def test_scheduled_inputs_are_given_or_predicted(prompted, noise_key):
    """By the predictions of `unroll` for the very inputs, with the same dropout.

    The last layer is so steep that a draw is the likeliest id, and its bias decides
    where zoneout leaves a state of zeros.
    """
    params = prompted[0]
    steep = params[-1]._replace(w=1e5 * params[-1].w, b=100.0 * jnp.arange(V))
    params = (*params[:-1], steep)
    size, batch = 6, 40
    given = jax.random.randint(jax.random.key(4), (size, batch), 0, V)
    mask = jax.random.bernoulli(jax.random.key(5), 0.8, given.shape)
    run = jax.jit(decoding.scheduled_inputs, static_argnums=0)
    options = {"mask": mask, "noise_key": noise_key}
    key = jax.random.key(6)
    for share in (0.0, 0.5, 1.0):
        inputs = run(NET, params, None, given, share, key, **options)
        _, logits = NET.unroll(params, None, inputs, mask=mask, key=noise_key)
        # What was predicted at the last step before that is not masked.
        likeliest, begun = np.asarray(given).copy(), np.zeros(batch, bool)
        predicted = np.zeros(batch, int)
        for t in range(size):
            likeliest[t] = np.where(begun, predicted, given[t])
            predicted = np.where(mask[t], np.argmax(logits[t], -1), predicted)
            begun |= np.asarray(mask[t])
        differ = likeliest != given
        replaced = np.asarray(inputs) != given
        np.testing.assert_array_equal(np.asarray(inputs)[replaced], likeliest[replaced])
        # Of the order of 100 draws: five standard errors.
        error = 5 * np.sqrt(share * (1 - share) / differ.sum())
        assert abs(replaced[differ].mean() - share) <= error


def test_parts_of_a_batch_under_shard_map(prompted):
    """Searches are those of the whole batch; draws are alike in each part, unless the
    axis index is folded into the key."""
    params, state, logits = prompted
    given = jax.tree.map(lambda a: a[:2], (state, logits))
    flat = jax.tree.map(jnp.zeros_like, (params, *given))

    def searches(state, logits):
        greedy = decoding.greedy(NET, params, state, logits, SIZE, end=END)
        beam = decoding.beam_search(NET, params, state, logits, SIZE, 3, end=END)
        return (greedy.ids, beam.ids), (greedy.scores, beam.scores)

    def draws(flat):
        key = jax.random.key(0)
        own = jax.random.fold_in(key, jax.lax.axis_index("data"))
        return [decoding.sample(NET, *flat, 30, k).ids for k in (key, own)]

    batch, ids = P("data"), P(None, "data")
    mapped = jax.jit(
        jax.shard_map(
            lambda given, flat: (searches(*given), draws(flat)),
            mesh=jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)),
            in_specs=(batch, (P(), batch, batch)),
            out_specs=((ids, batch), ids),
        )
    )
    found, (alike, own) = mapped(given, flat)
    chex.assert_trees_all_close(found, searches(*given), rtol=1e-5)
    assert (alike[:, 0] == alike[:, 1]).all() and (own[:, 0] != own[:, 1]).any()


@pytest.mark.usefixtures("as_users_see_it")
def test_errors(prompted):
    params, state, logits = prompted
    key = jax.random.key(0)

    def fails(words, run=decoding.greedy, *rest, **given):
        layer, size = given.pop("layer", NET), given.pop("size", 2)
        own, first = given.pop("state", state), given.pop("logits", logits)
        with pytest.raises((TypeError, ValueError), match=words):
            run(layer, params, own, first, size, *rest, **given)

    fails("`layer` must be a jaxrnn.layers.Layer", layer=jaxrnn.lstm)
    fails("`size` must be an integer ≥ 1", size=0)
    fails("`end` must be below V = 4, but got 4", end=4)
    fails("`logits` must be floating", logits=jnp.zeros(4, int))
    fails(r"`logits` \(5, 3, 4\) require", logits=jnp.zeros((5, 3, 4)))
    fails("`logits` must have shape", logits=logits[:, :3])
    fails(r"`state` must be .* None\. Both come from a prompt: .*layer\.", state=None)
    fails("`width` must be an integer ≥ 1", decoding.beam_search, 0)
    fails("`temperature` must be ≥ 0", decoding.sample, key, temperature=-1.0)
    fails("`temperature` must be one", decoding.sample, key, temperature=jnp.ones(3))
    fails("`top_p` must be above 0 and at most 1", decoding.sample, key, top_p=0.0)
    fails("`top_k` must be an integer ≥ 1", decoding.sample, key, top_k=0)
    fails("`key` must be a random key", decoding.sample, 0)
    with pytest.raises(ValueError, match="`share` must be between 0 and 1"):
        decoding.scheduled_inputs(NET, params, None, jnp.ones((2, 3), int), 1.5, key)
    with pytest.raises(TypeError, match="`ids` must be integers"):
        decoding.scheduled_inputs(NET, params, None, jnp.ones((2, 3)), 0.5, key)
    both = layers.bidirectional(layers.recurrent(jaxrnn.gru, 3))
    both = layers.stack(layers.embedding(V, 3), both, layers.dense(V))
    own, ids = both.init(key), jnp.zeros((2, 3), int)
    last, predicted = both.unroll(own, None, ids)
    words = "a bidirectional layer has no `step`"
    with pytest.raises(TypeError, match=words):
        decoding.greedy(both, own, last, predicted[-1], 2)
    with pytest.raises(TypeError, match=words):
        decoding.scheduled_inputs(both, own, None, ids, 0.5, key)
    states = layers.recurrent(jaxrnn.gru, V, return_states=True)
    own = states.init(key, V)
    last = states.initial_state(own, (2,))
    with pytest.raises(TypeError, match=r"last layer must return them: layers\.dense"):
        decoding.greedy(states, own, last, jnp.zeros((2, V)), 2)
