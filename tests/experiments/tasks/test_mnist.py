"""Images as sequences: pixels, rows, and a fixed order of the pixels."""

import jax
import numpy as np
import pytest

from experiments import data
from experiments.config.load import ConfigError, load_config
from experiments.data import FetchError
from experiments.tasks import Config, mnist
from tests.experiments.conftest import TINY

CONFIG = "configs/mnist/mnist_{}_lstm.toml"


def config_of(kind, *overrides):
    return load_config(Config, CONFIG.format(kind), overrides)


def images(count=50):
    """Images of all digits in turn; the pixels of each are its number plus their
    place."""
    labels = np.arange(count, dtype=np.int32) % 10
    pixels = np.arange(784) % 199 + np.arange(count)[:, None]
    return data.Images(pixels.astype(np.uint8).reshape(-1, 28, 28), labels)


@pytest.mark.parametrize("kind, shape", [("pixels", (784, 1)), ("rows", (28, 28))])
def test_an_image_is_read_from_its_upper_left_corner(kind, shape):
    train, test, classes, _ = mnist.split(images(), config_of(kind))
    assert train.xs.shape == (shape[0], 40, shape[1]) and len(classes) == 10
    whole = np.concatenate([train.xs, test.xs], axis=1)
    pixels = whole.swapaxes(0, 1).reshape(50, 28, 28)
    np.testing.assert_array_equal(pixels, images().pixels)
    assert (train.lengths == shape[0]).all() and (test.lengths == shape[0]).all()


def test_the_last_images_of_each_digit_are_held_out():
    train, test, *_ = mnist.split(images(), config_of("rows", "data.held_out=0.4"))
    np.testing.assert_array_equal(np.bincount(train.labels), 10 * [3])
    np.testing.assert_array_equal(np.bincount(test.labels), 10 * [2])
    assert train.xs[0, :, 0].max() < test.xs[0, :, 0].min()


def test_the_order_of_the_pixels_is_the_same_for_all_images():
    straight, *_ = mnist.split(images(), config_of("pixels"))
    train, test, *_ = mnist.split(images(), config_of("permuted"))
    again, *_ = mnist.split(images(), config_of("permuted", "seed=7"))
    other, *_ = mnist.split(images(), config_of("permuted", "permutation=1"))
    np.testing.assert_array_equal(again.xs, train.xs)
    assert (other.xs != train.xs).any()
    # Another order of the same pixels.
    first, unchanged = train.xs[:, 0], straight.xs[:, 0]
    np.testing.assert_array_equal(np.sort(first, axis=0), np.sort(unchanged, axis=0))
    assert (first != unchanged).mean() > 0.9
    # Each image is the first one plus its number.
    for part, numbers in ((train, np.arange(40)), (test, np.arange(40, 50))):
        added = part.xs[..., 0] - first
        np.testing.assert_array_equal(added, np.tile(numbers, (784, 1)))


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_both_parts_must_have_images(share):
    with pytest.raises(ValueError, match=r"of which 0 .* Change `data.held_out`"):
        mnist.split(images(), config_of("rows", f"data.held_out={share}"))


def test_what_can_be_read():
    with pytest.raises(ConfigError, match=r"`reads` must be one of `pixels`, `rows`"):
        config_of("rows", "reads=columns")


def test_the_channels_share_one_scale(monkeypatch):
    """A pixel at the edge that hardly varies must not become a large input."""
    monkeypatch.setattr(mnist.data, "load_mnist", lambda path: images())
    task = config_of("rows", *TINY).make(lambda sentence: None)
    _, batch = task.batch(0)
    train, *_ = mnist.split(images(), config_of("rows"))
    known = (train.xs - train.xs.mean()) / train.xs.std()
    for n in range(len(batch.labels)):
        apart = np.abs(known - batch.xs[:, n, None]).max(axis=(0, 2))
        assert apart.min() < 1e-4
    assert len(task.data["sha256"]) == 64
    params = task.init(jax.random.key(0))
    assert 0 <= task.evaluate(params)["test_accuracy"] <= 1


def test_images_that_cannot_be_fetched(monkeypatch):
    def refused(*_):
        raise FetchError("no registry")

    monkeypatch.setattr(mnist.data, "load_mnist", refused)
    with pytest.raises(FetchError, match="no registry"):
        config_of("rows").make(lambda sentence: None)
