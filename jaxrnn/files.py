"""Parameters in files: safetensors, with a record of what the numbers belong to.

Each array has the name of its place in the tree, such as "0.forward.w_ih", so any
reader of safetensors finds it. The metadata has one entry, "jaxrnn", a record in JSON:

    {"format": 1, "version": "0.1.0",
     "nodes": {"0.forward": "LSTMParams (gates ifgo)", …},
     "dtypes": {"0.forward.w_ih": "float32", …},
     "sha256": "…"}

A node is a NamedTuple in the tree. It is recorded because weights of another cell, or
with the gates in another order, may have the very same shapes.

safetensors refuses a truncated file and an impossible header, but does not notice a
flipped bit. The digest does: it covers the record and every array. Nothing that a file
holds is run or imported; its words are only compared with the expected ones.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxrnn import checks
from jaxrnn.arguments import Given, describe

FORMAT = 1
"""The version of the record, raised when an older `load` would misread it."""

# safetensors has stored these since version 0.5. Other dtypes of one byte are stored as
# bytes, under their own name in the record.
NATIVE = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
    "bfloat16 float16 float32 float64 float8_e4m3fn float8_e5m2"
).split()

# What an error shows of the differences: so many, of so many characters each.
SHOWN, LONGEST = 8, 300

KeyPath = tuple[Any, ...]
Record = dict[str, Any]


class Stored(NamedTuple):
    """An array in a file: its shape, and its numbers in the order of rows."""

    shape: tuple[int, ...]
    data: bytes | bytearray


def save(path: str | os.PathLike[str], params: PyTree) -> None:
    """Writes parameters, or any other tree of arrays, into a safetensors file.

    The file appears whole or not at all: it is written beside `path` under another
    name, synced to the disk, then renamed. If that fails, an older file stays as it is.

    Args:
      path: the file, such as "model.safetensors". An existing one is replaced.
      params: a cell's parameters, those of `jaxrnn.layers`, or any tree of arrays,
        `[...]`, of real numbers or bools.

    Raises:
      TypeError: if a leaf is not an array of such numbers, or is traced.
      ValueError: if two leaves have the same name, or an array was donated.
      OSError: if the file cannot be written. It names the file.
    """
    import safetensors.numpy

    target = _path(path)
    params = checks.numpy_arrays("params", params, "jaxrnn.save")
    arrays = {name: _storable(name, a) for name, a in _named("params", params).items()}
    record = {"format": FORMAT, "version": _version(), **_described(params)}
    stored = {name: Stored(a.shape, a.tobytes()) for name, a in arrays.items()}
    record["sha256"] = _digest(record, stored)
    content = safetensors.numpy.save(arrays, {"jaxrnn": json.dumps(record)})
    with _errors_that_name(target):
        _replace(target, content)


def load(path: str | os.PathLike[str], like: PyTree) -> Any:
    """Returns the tree of arrays in a file that `save` wrote.

    Args:
      path: the file.
      like: a tree with the structure, the shapes `[...]` and the dtypes to expect:
        parameters, or their shapes alone, as `jax.eval_shape(init, key)` gives them.

    Returns:
      A tree like `like`, of the arrays in the file, on JAX's default device.

    Raises:
      TypeError: if a leaf of `like` has no shape and dtype.
      ValueError: if the file is damaged, or was not written by `save`, or holds another
        tree: another cell, another order of gates, missing or unknown arrays, other
        shapes or dtypes. It names the file and each difference.
      OSError: if the file cannot be read. It names the file.
    """
    source = _path(path)
    like = checks.unwrapped(like)
    expected = _named("like", like)
    for name, leaf in expected.items():
        _expectable(name, leaf)
    record, found = _read(source)
    differences = [*_differences(like, expected, record, found)]
    if differences:
        shown = [words[:LONGEST] for words in differences[:SHOWN]]
        if len(differences) > SHOWN:
            shown.append(f"and {len(differences) - SHOWN} more")
        raise ValueError(
            f"{source} must hold a tree like `like`, but {'; '.join(shown)}. Make "
            "`like` with the cells and the sizes that were saved."
        )
    arrays = []
    for name, leaf in expected.items():
        array = np.frombuffer(found[name].data, leaf.dtype).reshape(leaf.shape)
        arrays.append(jnp.array(array))  # a copy, which does not keep the file alive
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


# What a tree is.


def _named(argument: str, tree: PyTree) -> dict[str, Any]:
    """Returns the leaves by the names of their places; raises unless these differ."""
    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = _name(path)
        if name in leaves or name == "__metadata__":
            taken = "two have" if name in leaves else "safetensors reserves"
            raise ValueError(
                f"each leaf of `{argument}` must have a name of its own, but {taken} "
                f"{name!r}. Rename a key."
            )
        leaves[name] = leaf
    return leaves


def _name(path: KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _nodes(tree: Any, path: KeyPath = ()) -> Iterator[tuple[str, str]]:
    """Yields each NamedTuple of a tree: its name, then its type and order of gates."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        kind = type(tree)
        order = getattr(getattr(kind, "gates", None), "order", "")
        gates = f" (gates {order})" if order else ""
        yield _name(path), kind.__name__ + gates
    children = jax.tree.leaves_with_path(tree, is_leaf=lambda node: node is not tree)
    for key, child in children:
        if child is not tree:
            yield from _nodes(child, path + key)


def _described(tree: PyTree) -> Record:
    """Returns the part of a record that is about the tree."""
    dtypes = {
        _name(path): np.dtype(leaf.dtype).name
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    return {"nodes": dict(_nodes(tree)), "dtypes": dtypes}


def _differences(
    like: PyTree,
    expected: Mapping[str, Any],
    record: Record,
    found: Mapping[str, Stored],
) -> Iterator[str]:
    """Yields the differences between a file and the tree that is expected, in words."""
    described = _described(like)
    nodes, others = described["nodes"], record["nodes"]
    for name in sorted({*nodes, *others}):
        here, there = (side.get(name, "no NamedTuple") for side in (nodes, others))
        if here != there:
            where = repr(name) if name else "the tree"
            yield f"{where} is {there} in the file, and {here} in `like`"
    for name in sorted({*expected, *found}):
        if name not in found:
            yield f"{name!r} is missing"
        elif name not in expected:
            yield f"{name!r} is unknown"
        else:
            dtype = np.dtype(expected[name].dtype)
            shape, (got, data) = tuple(expected[name].shape), found[name]
            kind = record["dtypes"].get(name)
            if (kind, got) != (dtype.name, shape):
                yield f"{name!r} is {kind} {got}, and {dtype.name} {shape} in `like`"
            elif len(data) != dtype.itemsize * math.prod(shape):
                yield f"{name!r} has {len(data)} bytes for {dtype.name} {shape}"


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array `[...]` as safetensors can store it; raises if it cannot."""
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if array.dtype.name in NATIVE:
        return array
    if array.dtype.itemsize == 1 and jnp.issubdtype(array.dtype, jnp.number):
        return array.view(np.uint8)
    cure = ""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        cure = " Save real and imaginary parts as arrays of their own."
    raise TypeError(
        f"`params` must hold real numbers or bools, but {name!r} is {array.dtype}."
        f"{cure}"
    )


def _expectable(name: str, leaf: Given) -> None:
    """Raises unless an array like `leaf` can be returned."""
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        raise TypeError(
            "the leaves of `like` must be arrays or jax.ShapeDtypeStruct, but "
            f"{name!r} is {describe(leaf)}."
        )
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"the leaves of `like` must be arrays of numbers, but {name!r} is a random "
            "key. Save and load its numbers: jax.random.key_data(key)."
        )
    if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        raise TypeError(
            "the leaves of `like` must have dtypes that JAX has enabled, but "
            f'{name!r} is {leaf.dtype}. Enable it: jax.config.update("jax_enable_x64", '
            "True)."
        )


# The file.


def _path(path: Given) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` must be a string or a Path, but got {describe(path)}.")
    return Path(path)


def _version() -> str:
    try:
        return metadata.version("jaxrnn")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _digest(record: Record, stored: Mapping[str, Stored]) -> str:
    """Returns the SHA-256 of a record, except for its own digest, and of the arrays."""
    covered = [record[key] for key in ("format", "version", "nodes", "dtypes")]
    digest = hashlib.sha256(json.dumps(covered, sort_keys=True).encode())
    for name in sorted(stored):
        shape, data = stored[name]
        digest.update(json.dumps([name, shape, len(data)]).encode())
        digest.update(data)
    return digest.hexdigest()


def _is_intact(record: Record, stored: Mapping[str, Stored]) -> bool:
    """Returns whether a record is well formed, and has the digest of what it covers."""
    nodes, dtypes = record.get("nodes"), record.get("dtypes")
    if not (isinstance(nodes, dict) and isinstance(dtypes, dict)):
        return False
    words = [record["version"], *nodes.values(), *dtypes.values()]
    if not all(isinstance(word, str) for word in words):
        return False
    return record.get("sha256") == _digest(record, stored)


def _read(path: Path) -> tuple[Record, dict[str, Stored]]:
    """Returns the record and the arrays of a file; raises unless it is whole."""
    import safetensors

    if path.exists() and not path.is_file():
        raise ValueError(f"`path` must be a file, but {path} is not a regular one.")
    with _errors_that_name(path):
        content = path.read_bytes()
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file, but it is damaged or of another "
            f"kind ({str(error)[:LONGEST]}). Restore it from a copy."
        ) from error
    stored = {name: Stored(tuple(t["shape"]), t["data"]) for name, t in tensors}
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"]["jaxrnn"])
        number, version = record["format"], record["version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must have been written by jaxrnn.save, but has no record of it. "
            "Read other files with safetensors.numpy.load_file."
        ) from error
    if number != FORMAT:
        raise ValueError(
            f"{path} must be of format {FORMAT}, but is of {str(number)[:LONGEST]}. "
            f"Read it with jaxrnn {str(version)[:LONGEST]}, which wrote it."
        )
    if not _is_intact(record, stored):
        raise ValueError(
            f"{path} must be as jaxrnn.save wrote it, but does not have the SHA-256 of "
            "its record: it is damaged. Restore it from a copy."
        )
    return record, stored


def _replace(path: Path, content: bytes) -> None:
    """Writes a file, or the one that a link points to, whole or not at all."""
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.is_file():
            shutil.copymode(target, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_that_name(path: Path) -> Iterator[None]:
    """Gives errors of the system the user's file: they name the draft, or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
