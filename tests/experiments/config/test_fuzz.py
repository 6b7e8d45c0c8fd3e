"""Whatever a config or an override says, it is read, or refused by its key."""

import tempfile
from pathlib import Path

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.config.load import ConfigError, dump_config, load_config
from experiments.config.schema import LARGEST
from experiments.tasks import Config
from experiments.training import memory

ROOT = Path(__file__).parents[3]
CONFIGS = [
    ROOT / "configs" / f"{name}.toml"
    for name in (
        "shakespeare/shakespeare_lstm",
        "recall/elman_omega",
        "classical/copying_100_gru",
        "vowels/vowels_gru",
    )
]
KEYS = [
    "task", "model", "optimizer", "seed", "evaluations", "window", "lag", "delay",
    "embedding_size", "sample_length", "temperature", "data", "data.path", "model.cell",
    "data.held_out", "model.hidden_size", "model.layers", "model.dropout",
    "model.activation", "model.spectral_radius", "optimizer.steps", "optimizer.b2",
    "optimizer.batch_size", "optimizer.learning_rate", "optimizer.warmup",
    "on_nonfinite", "save_minutes", "nonfinite_limit", "vanishing", "no.such.key", "",
]  # fmt: skip
VALUES = [
    "", "0", "-1", "1", "3", "1.5", "-0.0", "1e-320", "1e30", "1e300", "nan", "-inf",
    "true", "[]", "{}", "[1, 'a']", "{a = {b = 1}}", "'x'", '"42"', "gru", "elman",
    str(10**9), str(10**20), "9" * 5000, "[" * 500 + "]" * 500, "x" * 100_000,
    "\x1b]0;X\x07", "\udcff", "\0", "é", "1\nseed = 2", "# 3", "1979-05-27", "0x10",
]  # fmt: skip
KEY = st.sampled_from(KEYS) | st.text(max_size=8)
SETTING = st.builds("{}={}".format, KEY, st.sampled_from(VALUES) | st.text(max_size=8))


def read(path, overrides=()):
    """Returns the config, or None after a refusal that a person can read."""
    try:
        return load_config(Config, path, overrides)
    except ConfigError as error:
        words = str(error)
        assert str(path) in words or "override" in words
        assert len(words) < 400 * (len(overrides) + 3)
        return None


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(CONFIGS), st.lists(SETTING | st.text(max_size=8), max_size=3))
@example(CONFIGS[0], [".".join("a" * 20_000) + "=1"])
@example(CONFIGS[0], ["optimizer." + ".".join("a" * 2000) + "=1"])
@example(CONFIGS[0], ["x" * 100_000])
def test_any_override_is_read_or_refused(path, overrides):
    config = read(path, overrides)
    if config is not None:
        again = msgspec.json.decode(dump_config(config))
        assert again == msgspec.to_builtins(config)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(CONFIGS), st.data())
def test_a_refusal_has_the_key(path, data):
    """Of a value that no key of this config takes."""
    config = msgspec.to_builtins(load_config(Config, path))
    tables = [
        ("", config),
        *((f"{k}.", v) for k, v in config.items() if type(v) is dict),
    ]
    prefix, table = data.draw(st.sampled_from(tables))
    key = prefix + data.draw(st.sampled_from(sorted(table)))
    try:
        load_config(Config, path, [f"{key}=[[1979-05-27]]"])
    except ConfigError as error:
        assert f"`{key}" in str(error).split("]]: ", 1)[1]
    else:
        raise AssertionError(f"{key} took it")


PIECES = st.sampled_from(
    [
        "=",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "\n",
        '"',
        "'",
        "a",
        "task",
        ".",
        "1",
        "\0",
        "#",
        "é",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_file_is_read_or_refused(data):
    """Texts of pieces of TOML, and configs with some of their bytes changed."""
    content = data.draw(st.sampled_from(CONFIGS)).read_bytes()
    place = data.draw(st.integers(0, len(content)))
    cut = data.draw(st.integers(0, 40))
    other = data.draw(
        st.binary(max_size=8)
        | st.lists(PIECES, max_size=8).map("".join).map(str.encode)
    )
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".toml", ".json"):
            path = Path(folder) / f"config{suffix}"
            path.write_bytes(content[:place] + other + content[place + cut :])
            read(path)


SIZES = {
    "model.hidden_size": st.integers(1, LARGEST),
    "optimizer.batch_size": st.integers(1, LARGEST),
    "model.layers": st.integers(1, 100),
}


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([CONFIGS[0], CONFIGS[2]]),
    st.fixed_dictionaries({}, optional=SIZES),
)
def test_absurd_sizes_are_refused_with_an_estimate(path, sizes):
    """What is not refused needs less than the machine has."""
    overrides = [f"{key}={size}" for key, size in sizes.items()]
    config = load_config(Config, path, overrides)
    try:
        memory.check_fits(config)
    except ConfigError as error:
        assert "of memory, but this machine has" in str(error)
        assert "Lower `" in str(error)
    else:
        needs = sum(memory.needed_bytes(config).values())
        assert needs <= memory.available_bytes()
