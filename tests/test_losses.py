"""Losses with missing labels: no such step counts, and no gradient comes from it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import losses
from tests.cases import steps

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


def squared_error(outputs, labels):
    return jnp.sum(optax.squared_error(outputs, labels), axis=-1)


def problem(size=5, batch=3, classes=4):
    keys = jax.random.split(jax.random.key(0))
    logits = jax.random.normal(keys[0], (size, batch, classes))
    return logits, jax.random.randint(keys[1], (size, batch), 0, classes)


@pytest.mark.parametrize("axis", [None, 0, (0, 1), 1])
def test_equals_the_sum_over_the_labels_that_are_there(axis):
    logits, labels = problem()
    mask = steps(0.5, 5).at[:, 1].set(False)  # one sequence without any label
    each = -jax.nn.log_softmax(logits)[np.arange(5)[:, None], np.arange(3), labels]
    sums = np.where(mask, each, 0).sum(axis)
    got = losses.masked_sum(CROSS_ENTROPY, logits, labels, mask, axis)
    chex.assert_trees_all_close(got, sums, rtol=1e-5)
    counts = np.maximum(mask.sum(axis), 1)
    means = losses.masked_mean(CROSS_ENTROPY, logits, labels, mask, axis)
    chex.assert_trees_all_close(means, sums / counts, rtol=1e-5)


@pytest.mark.parametrize("reduction", [losses.masked_sum, losses.masked_mean])
def test_without_any_label_the_loss_and_the_gradient_are_zero(reduction):
    logits, labels = problem()
    logits = logits.at[2].set(jnp.nan).at[3].set(jnp.inf)
    loss = jax.value_and_grad(
        lambda x: reduction(CROSS_ENTROPY, x, labels, jnp.zeros((5, 3), bool))
    )
    chex.assert_trees_all_equal(loss(logits), (jnp.zeros(()), jnp.zeros_like(logits)))


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, squared_error, optax.cosine_distance])
def test_garbage_behind_an_empty_label_changes_nothing(loss):
    logits, labels = problem()
    mask = steps(0.6, 5, seed=1)
    garbage = jnp.where(mask[..., None], logits, jnp.nan)
    if loss is CROSS_ENTROPY:
        bad_labels = jnp.where(mask, labels, 10**6)  # out of range: NaN from optax
    else:
        labels = jnp.roll(logits, 1, axis=0)
        bad_labels = jnp.where(mask[..., None], labels, jnp.nan)

    value_and_grad = jax.value_and_grad(
        lambda y, v: losses.masked_mean(loss, y, v, mask)
    )

    # Not compiled: XLA would turn a product with the mask into a selection, and hide
    # it.
    with jax.disable_jit():
        value, grad = value_and_grad(garbage, bad_labels)
        clean = value_and_grad(logits, labels)
    chex.assert_trees_all_equal((value, grad), clean)
    assert not grad[~mask].any() and grad[mask].any()


def test_means_of_what_is_no_float32():
    """An accuracy is a mean of bools, and 70,000 labels overflow float16."""

    def correct(outputs, labels):
        return outputs == labels

    ids, mask = jnp.array([1, 2, 3, 4]), jnp.array([True, True, True, False])
    assert losses.masked_mean(
        correct, ids, jnp.array([1, 2, 0, 4]), mask
    ) == jnp.float32(2 / 3)
    many = jnp.ones(70_000, jnp.float16)
    mean = losses.masked_mean(optax.squared_error, many, 0 * many, many > 0)
    assert mean == 1 and mean.dtype == jnp.float16


def test_no_mask_means_every_label():
    logits, labels = problem()
    everywhere = jnp.ones((5, 3), bool)
    for reduction in (losses.masked_sum, losses.masked_mean):
        chex.assert_trees_all_equal(
            reduction(CROSS_ENTROPY, logits, labels),
            reduction(CROSS_ENTROPY, logits, labels, everywhere),
        )


@pytest.mark.parametrize("missing", [-1, -100])
@pytest.mark.parametrize("masked", [False, True])
def test_a_negative_class_id_is_a_missing_label(missing, masked):
    """As `ignore_index` of PyTorch: the same as a mask."""
    logits, labels = problem()
    present = steps(0.6, 5, seed=1)
    mask = steps(0.6, 5, seed=2) if masked else None
    both = present if mask is None else present & mask
    assert both.any() and not both.all()
    outputs = logits if mask is None else jnp.where(mask[..., None], logits, jnp.nan)
    bad_labels = jnp.where(present, labels, missing)
    for reduction in (losses.masked_sum, losses.masked_mean):
        loss = jax.value_and_grad(functools.partial(reduction, CROSS_ENTROPY))
        got = loss(outputs, bad_labels, mask)
        chex.assert_trees_all_equal(got, loss(logits, labels, both))


def test_negative_numbers_are_labels():
    """Only integers with one axis fewer than the outputs are ids."""
    outputs = jnp.array([[1.0], [3.0]])
    labels = jnp.array([[-1], [2]])
    assert losses.masked_sum(squared_error, outputs, labels) == 5
    first = jnp.array([True, False])
    assert losses.masked_mean(squared_error, outputs, labels, first) == 4
    assert (
        losses.masked_sum(lambda y, v: (y[:, 0] - v) ** 2, outputs, -outputs[:, 0])
        == 40
    )


@pytest.mark.usefixtures("as_users_see_it")
def test_lists_are_arrays_too():
    mean = losses.masked_mean(
        CROSS_ENTROPY, [[0.0, 0.0], [1.0, 3.0]], [0, 1], [True, False]
    )
    np.testing.assert_allclose(mean, np.log(2), rtol=1e-6)


def test_an_id_that_is_no_class_is_refused_where_it_is_known():
    """Under `jit` it is not known, and its loss is NaN; a masked one does not count."""
    logits, labels = jnp.zeros((2, 3)), jnp.asarray([1, 3])
    with pytest.raises(ValueError, match=r"class ids below 3, the last axis .* got 3"):
        losses.masked_sum(CROSS_ENTROPY, logits, labels)
    masked = losses.masked_sum(
        CROSS_ENTROPY, logits, labels, jnp.asarray([True, False])
    )
    np.testing.assert_allclose(masked, np.log(3), rtol=1e-6)
    jitted = jax.jit(functools.partial(losses.masked_sum, CROSS_ENTROPY))(
        logits, labels
    )
    assert np.isnan(jitted)
