"""What a config needs is estimated, and refused if the machine has less."""

import pytest

from experiments.config.load import ConfigError, load_config
from experiments.tasks import Config
from experiments.training import memory

GIB = 2**30


@pytest.mark.parametrize(
    ("config", "setting", "key"),
    [
        ("shakespeare/shakespeare_lstm", "model.hidden_size=1000000", "hidden_size"),
        (
            "shakespeare/shakespeare_lstm",
            "optimizer.batch_size=100000000",
            "batch_size",
        ),
        ("shakespeare/shakespeare_lstm", "embedding_size=100000000", "embedding_size"),
        ("recall/gru", "lag=100000000", "lag"),
        ("recall/gru", "symbols=1000000000", "symbols"),
        ("truncation/recall_stream_lstm", "window=100000000", "window"),
        ("truncation/recall_stream_lstm", "lag=100000000", "lag"),
        ("classical/adding_100_lstm", "length=1000000000", "length"),
        ("classical/copying_100_gru", "delay=1000000000", "delay"),
        ("classical/temporal_order_gru", "model.hidden_size=1000000000", "hidden_size"),
        ("vowels/vowels_gru", "optimizer.batch_size=1000000000", "batch_size"),
        (
            "digits/digits_bidirectional_gru",
            "optimizer.batch_size=1000000000",
            "batch_size",
        ),
    ],
)
def test_an_absurd_size_is_refused(monkeypatch, config, setting, key):
    """By the key that makes it large, before anything is allocated."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 * GIB)
    path = f"configs/{config}.toml"
    with pytest.raises(ConfigError, match=rf"this machine has 8.0 GiB. Lower .*{key}`"):
        memory.check_fits(load_config(Config, path, [setting]))
    memory.check_fits(load_config(Config, path))


def test_the_estimate_is_that_of_the_arrays():
    """An LSTM of 2 inputs, 3 units and 1 output: 12 · (2 + 3 + 1) and 3 + 1 numbers."""
    settings = ["model.hidden_size=3", "length=5", "optimizer.batch_size=2000"]
    path = "configs/classical/adding_100_lstm.toml"
    needs = memory.needed_bytes(load_config(Config, path, settings))
    assert list(needs.values()) == [76 * 4 * 4, 2000 * 5 * (2 + 3 + 1) * 4]
    assert memory.available_bytes() > GIB / 4


def test_a_limit_of_addresses(monkeypatch):
    """As `ulimit -v`: JAX would abort."""
    resource = pytest.importorskip("resource")
    config = load_config(Config, "configs/recall/gru.toml")

    def limited_to(size):
        monkeypatch.setattr(resource, "getrlimit", lambda _: (size, size))

    limited_to(memory.ADDRESSES + 4096)
    assert memory.available_bytes() == 4096
    with pytest.raises(ConfigError, match="training needs at least"):
        memory.check_fits(config)
    limited_to(GIB)
    with pytest.raises(ConfigError, match=r"JAX needs 2.0 GiB of addresses"):
        memory.check_fits(config)
    limited_to(resource.RLIM_INFINITY)
    memory.check_fits(config)


def test_every_layer_and_direction_counts():
    """Adding numbers: layers of 4 · 3 · (inputs + 3 + 1) numbers, in two directions."""
    path = "configs/classical/adding_100_lstm.toml"
    settings = ["model.hidden_size=3", "model.layers=3", "model.bidirectional=true"]
    settings.append("length=10")
    first, *_ = memory.needed_bytes(load_config(Config, path, settings)).values()
    layers = [2 * 12 * (inputs + 3 + 1) for inputs in (2, 6, 6)]
    assert first == (sum(layers) + 6 + 1) * 4 * 4


@pytest.mark.parametrize("words", ["", "no such plug-in\nadvice"])
def test_no_device(monkeypatch, words):
    def devices():
        raise AssertionError(words)

    monkeypatch.setattr(memory.jax, "devices", devices)
    reason = words.splitlines()[0] if words else "AssertionError"
    with pytest.raises(ConfigError, match=f"finds no device: {reason}. Check the var"):
        memory.check_devices()
