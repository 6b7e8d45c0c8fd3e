"""Parameters written into files and read again; what is not in order is refused."""

import json
import os
import resource
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxrnn
from jaxrnn import layers
from jaxrnn.cells import CELLS
from jaxrnn.cells.weights import Gates

KEY = jax.random.key(0)
LSTM = jaxrnn.lstm.init(KEY, 3, 4)
GRU = jaxrnn.gru.init(KEY, 3, 4)
NET = layers.stack(
    layers.embedding(7, 3),
    layers.bidirectional(layers.recurrent(jaxrnn.gru, 4, learn_initial_state=True)),
    layers.dropout(0.5),
    layers.dense(2),
)
DTYPES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 int4 uint4 float4_e2m1fn "
    "float16 bfloat16 float32 float64 float8_e3m4 float8_e4m3 float8_e4m3fn "
    "float8_e4m3fnuz float8_e4m3b11fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
).split()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def learner():
    params = {"rnn": LSTM, "out": jnp.ones((4, 1))}
    return jaxrnn.train.init_learner(params, optax.adam(1e-3))


TREES = {
    **{name: lambda cell=cell: cell.init(KEY, 3, 4) for name, cell in CELLS.items()},
    "layers": lambda: NET.init(KEY),
    "learner": learner,
    "odd shapes": lambda: {"none": None, "scalar": jnp.ones(()), "empty": jnp.ones(0)},
    "one array": lambda: jnp.ones(3),
    "no array": lambda: ((), None, {}),
    "keys that are numbers": lambda: {1: [jnp.ones(2)], 10: jnp.zeros(2)},
}


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
def test_a_tree_comes_back(make, path):
    tree = make()
    jaxrnn.save(path, tree)
    loaded = jaxrnn.load(path, jax.eval_shape(make))
    chex.assert_trees_all_equal(loaded, tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, tree)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))


@pytest.mark.lowest
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_bit_by_bit(dtype, path, x64):
    """NaNs with their payloads too. The shape is not square, and columns come first."""
    dtype = jnp.dtype(dtype)
    bits = np.random.default_rng(0).integers(0, 256, (6, 4 * dtype.itemsize), np.uint8)
    if dtype.name in ("bool", "int4", "uint4", "float4_e2m1fn"):
        array = (bits % 2).astype(dtype)  # of fewer bits than a byte
    else:
        array = bits.view(dtype)
    jaxrnn.save(path, {"a": array.T})
    loaded = jaxrnn.load(path, {"a": jax.ShapeDtypeStruct((4, 6), dtype)})["a"]
    assert loaded.dtype == dtype and loaded.shape == (4, 6)
    assert np.asarray(loaded).tobytes() == array.T.tobytes()


def test_arrays_of_numpy_in_another_order_of_bytes(path):
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    jaxrnn.save(path, [array])
    (loaded,) = jaxrnn.load(path, [jax.ShapeDtypeStruct((2, 3), jnp.float32)])
    np.testing.assert_array_equal(loaded, array)


def test_any_reader_of_safetensors_finds_the_arrays_by_name(path):
    from safetensors.numpy import load_file

    params = NET.init(KEY)
    jaxrnn.save(str(path), {"net": params})
    found = load_file(path)
    assert len(found) == len(jax.tree.leaves(params))
    backward = params[1].backward
    np.testing.assert_array_equal(found["net.0.table"], params[0].table)
    np.testing.assert_array_equal(found["net.1.backward.cell.b"], backward.cell.b)
    np.testing.assert_array_equal(
        found["net.1.backward.initial_state.h"], backward.initial_state.h
    )


def test_the_same_parameters_make_the_same_file(path, tmp_path):
    jaxrnn.save(path, LSTM)
    jaxrnn.save(tmp_path / "again", jax.tree.map(jnp.copy, LSTM))
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


def test_a_file_of_the_first_format():
    """Later versions read it too."""
    like = layers.bidirectional(layers.recurrent(jaxrnn.lstm, 1)).init(KEY, 2)
    loaded = jaxrnn.load(Path(__file__).parent / "golden/format_1.safetensors", like)
    for scale, direction in enumerate(loaded, 1):
        for leaf in direction:
            numbers = np.arange(leaf.size, dtype=np.float32).reshape(leaf.shape)
            np.testing.assert_array_equal(leaf, scale * numbers)


# Trees that are not the one in the file.


def changed(**fields):
    return LSTM._replace(**fields)


def like_lstm(name, order=""):
    """A NamedTuple with the fields, shapes and dtypes of an LSTM's parameters."""

    class Like(NamedTuple):
        w_ih: Any
        w_hh: Any
        b: Any

    Like.__name__ = name
    if order:
        Like.gates = Gates(order)
    return Like(*LSTM)


DIFFERENT = {
    "another cell": (
        GRU,
        "the tree is LSTMParams (gates ifgo) in the file, and GRUParams (gates rzn) in "
        "`like`; 'b' is float32 (16,), and float32 (12,) in `like`; 'b_hn' is missing",
    ),
    "another cell of the same shapes": (
        like_lstm("OtherParams"),
        "the tree is LSTMParams (gates ifgo) in the file, and OtherParams in `like`.",
    ),
    "another order of gates": (
        like_lstm("LSTMParams", "iofg"),
        "the tree is LSTMParams (gates ifgo) in the file, and LSTMParams (gates iofg) "
        "in `like`.",
    ),
    "a dict": (LSTM._asdict(), "and no NamedTuple in `like`."),
    "another dtype": (
        changed(b=LSTM.b.astype(jnp.bfloat16)),
        "'b' is float32 (16,), and bfloat16 (16,) in `like`.",
    ),
    "another dtype of the same size": (
        changed(b=LSTM.b.astype(jnp.int32)),
        "'b' is float32 (16,), and int32 (16,) in `like`.",
    ),
    "another shape": (
        changed(w_ih=LSTM.w_ih.T),
        "'w_ih' is float32 (3, 16), and float32 (16, 3) in `like`.",
    ),
    "fewer arrays": (changed(b=None), "'b' is unknown."),
    "more arrays": (changed(b=[LSTM.b, LSTM.b]), "'b' is unknown; 'b.0' is missing; "),
    "many differences": ([LSTM] * 4, "'0.w_ih' is missing; and 12 more. Make"),
}


@pytest.mark.parametrize(("like", "words"), DIFFERENT.values(), ids=DIFFERENT)
def test_another_tree_is_refused_with_each_difference(like, words, path):
    jaxrnn.save(path, LSTM)
    with pytest.raises(ValueError) as caught:
        jaxrnn.load(path, like)
    message = str(caught.value)
    assert message.startswith(f"{path} must hold a tree like `like`, but ")
    assert words in message
    assert message.endswith("Make `like` with the cells and the sizes that were saved.")


# Damage.

WHOLE = {"rnn": GRU, "n": jnp.arange(3)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder, and the bytes of a file that is in order."""
    folder = tmp_path_factory.mktemp("damage")
    jaxrnn.save(folder / "whole", WHOLE)
    return folder, (folder / "whole").read_bytes()


def refused(path, content, like=WHOLE):
    """The error of a file with this content."""
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        jaxrnn.load(path, like)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 3000
    return str(caught.value)


def found_or_harmless(path, content):
    """Damage is found, or there is none: the arrays are what they were."""
    path.write_bytes(content)
    try:
        loaded = jaxrnn.load(path, WHOLE)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        chex.assert_trees_all_equal(loaded, WHOLE)


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_a_changed_byte_is_found(whole, data):
    folder, content = whole
    header = 8 + int.from_bytes(content[:8], "little")
    anywhere = st.integers(0, len(content) - 1)
    at = data.draw(st.integers(0, header - 1) | anywhere)
    flipped = content[at] ^ data.draw(st.integers(1, 255))
    found_or_harmless(
        folder / "changed", content[:at] + bytes([flipped]) + content[at + 1 :]
    )


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_lost_and_added_bytes_are_found(whole, data):
    folder, content = whole
    first, last = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    between = data.draw(st.binary(max_size=20))
    found_or_harmless(folder / "cut", content[:first] + between + content[last:])


def test_every_bit_of_the_numbers_counts(whole):
    folder, content = whole
    header = 8 + int.from_bytes(content[:8], "little")
    for at in range(header, len(content), 7):
        flipped = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        assert "it is damaged" in refused(folder / "flipped", flipped)


def test_truncated_files(whole):
    folder, content = whole
    for size in (0, 3, 8, 9, 200, len(content) - 1):
        assert "whole safetensors file" in refused(folder / "cut", content[:size])
    assert "whole safetensors file" in refused(folder / "long", content + b"\0")


def packed(header, data=b""):
    """A file with this header."""
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(words).to_bytes(8, "little") + words + data


def tensor(shape, first, last, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


HOSTILE = {
    "a header beyond the file": (2**20).to_bytes(8, "little") + b"{}",
    "a huge header": (2**63).to_bytes(8, "little") + b"{}",
    "overlapping arrays": packed({n: tensor([1], 0, 4) for n in "ab"}, bytes(4)),
    "arrays beyond the file": packed({"a": tensor([9], 0, 36)}, bytes(4)),
    "a hole": packed({"a": tensor([1], 4, 8)}, bytes(8)),
    "backwards": packed({"a": tensor([1], 4, 0)}, bytes(4)),
    "negative sizes": packed({"a": tensor([-1], 0, 4)}, bytes(4)),
    "sizes that overflow": packed({"a": tensor([2**40, 2**40], 0, 4)}, bytes(4)),
    "an unknown dtype": packed({"a": tensor([1], 0, 4, "PY")}, bytes(4)),
    "nested without end": packed(b"[" * 100_000),
    "no JSON": packed(b"hello"),
    "no UTF-8": packed(b'{"\xff": 1}'),
    "a pickle": b"\x80\x04cos\nsystem\n(S'exit'\ntR.",
    "an archive": b"PK\x03\x04" + bytes(40),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers(content, path):
    assert "whole safetensors file" in refused(path, content)


FOREIGN = {
    "none": {},
    "of another library": {"__metadata__": {"format": "pt"}},
    "no JSON": {"__metadata__": {"jaxrnn": "{"}},
    "nested without end": {"__metadata__": {"jaxrnn": "[" * 100_000}},
    "a list": {"__metadata__": {"jaxrnn": "[]"}},
    "a number": {"__metadata__": {"jaxrnn": "1"}},
    "an empty one": {"__metadata__": {"jaxrnn": "{}"}},
}


@pytest.mark.parametrize("header", FOREIGN.values(), ids=FOREIGN)
def test_files_without_a_record(header, path):
    words = refused(path, packed(header))
    assert "must have been written by jaxrnn.save" in words
    assert "safetensors.numpy.load_file" in words


def with_record(path, **changes):
    """A file of an LSTM whose record was changed, without signing it again."""
    jaxrnn.save(path, LSTM)
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    record = json.loads(header["__metadata__"]["jaxrnn"]) | changes
    header["__metadata__"]["jaxrnn"] = json.dumps(record)
    return packed(header, content[size:])


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": {}},
        {"nodes": []},
        {"nodes": {"": ["LSTMParams"]}},
        {"dtypes": {"b": "object"}},
        {"dtypes": None},
        {"version": "9"},
        {"version": 9},
        {"sha256": 1},
    ],
    ids=str,
)
def test_a_changed_record(changes, path):
    assert "the SHA-256" in refused(path, with_record(path, **changes), LSTM)


def test_a_later_format(path):
    words = refused(path, with_record(path, format=2, version="3.0"), LSTM)
    assert "of format 1, but is of 2. Read it with jaxrnn 3.0, which wrote it" in words


def test_an_array_that_is_smaller_than_its_dtype_says(path, monkeypatch):
    """Even if the file is signed: no array is read beyond its bytes."""
    stored = np.zeros(16, np.uint8)
    monkeypatch.setattr(jaxrnn.files, "_storable", lambda name, a: stored)
    jaxrnn.save(path, {"b": LSTM.b})
    monkeypatch.undo()
    words = refused(path, path.read_bytes(), {"b": LSTM.b})
    assert "'b' has 16 bytes for float32 (16,)" in words


# The disk.


def test_a_full_disk_leaves_the_old_file(path):
    """As the system stops a write: at a limit of size, here."""
    jaxrnn.save(path, LSTM)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            jaxrnn.save(path, GRU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_interruption_leaves_the_old_file(path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    jaxrnn.save(path, LSTM)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jaxrnn.save(path, GRU)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_paths_that_are_no_files(tmp_path):
    nowhere = tmp_path / "nowhere" / "file"
    for call in (
        lambda: jaxrnn.save(nowhere, LSTM),
        lambda: jaxrnn.load(nowhere, LSTM),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert caught.value.filename == str(nowhere)
    with pytest.raises(IsADirectoryError) as caught:
        jaxrnn.save(tmp_path, LSTM)
    assert caught.value.filename == str(tmp_path)
    assert os.listdir(tmp_path) == []
    for path in (tmp_path, "/dev/null"):
        with pytest.raises(ValueError, match=f"`path` must be a file, but {path} is"):
            jaxrnn.load(path, LSTM)


def test_links_and_modes_are_kept(path, tmp_path):
    jaxrnn.save(path, LSTM)
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    jaxrnn.save(link, GRU)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    chex.assert_trees_all_equal(jaxrnn.load(path, GRU), GRU)


# Arguments.


def donated():
    array = jnp.ones(3)
    array.delete()
    return array


REFUSED = {
    "a number": ({"a": 1.0}, r"`params\['a'\]` must be an array, but got 1.0"),
    "a word": (["x"], r"`params\[0\]` must be an array, but got 'x'"),
    "shapes": (
        [jax.ShapeDtypeStruct((3,), jnp.float32)],
        r"`params\[0\]` must be an array, but got a shape without numbers",
    ),
    "complex numbers": (
        {"a": np.ones(2, complex)},
        "`params` must hold real numbers or bools, but 'a' is complex128. Save real",
    ),
    "text": ([np.array(["x"])], "real numbers or bools, but '0' is <U1"),
    "objects": ([np.array([None])], "real numbers or bools, but '0' is object"),
    "a random key": (jax.random.key(0), "a random key. Give .*jax.random.key_data"),
    "a donated array": ([donated()], r"`params\[0\]` was donated"),
    "the same name twice": (
        {"a": {"b": np.ones(2)}, "a.b": np.ones(2)},
        "a name of its own, but two have 'a.b'. Rename a key",
    ),
    "a reserved name": (
        {"__metadata__": np.ones(2)},
        "but safetensors reserves '__metadata__'. Rename a key",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("tree", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_saved(tree, words, path):
    with pytest.raises((TypeError, ValueError), match=words):
        jaxrnn.save(path, tree)
    assert not path.exists()


@pytest.mark.usefixtures("as_users_see_it")
def test_other_arguments(path):
    with pytest.raises(TypeError, match="`path` must be a string or a Path, but got 3"):
        jaxrnn.save(3, LSTM)
    with pytest.raises(
        TypeError, match="`path` must be a string or a Path, but got No"
    ):
        jaxrnn.load(None, LSTM)
    with pytest.raises(TypeError, match=r"`params` must .* traced. `jaxrnn.save` runs"):
        jax.jit(lambda params: jaxrnn.save(path, params))(LSTM)
    jaxrnn.save(path, LSTM)
    with pytest.raises(TypeError, match=r"the leaves of `like` must .* 'b' is 1.0"):
        jaxrnn.load(path, changed(b=1.0))
    with pytest.raises(TypeError, match=r"'b' is a random key. .*key_data"):
        jaxrnn.load(path, changed(b=jax.random.key(0)))
    with pytest.raises(TypeError, match=r"'b' is float64. Enable it: .*enable_x64"):
        jaxrnn.load(path, changed(b=np.ones(16)))
