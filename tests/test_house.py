"""The house: which module stands on which, what it may import, and that its doors are
labelled.

The sources are parsed, not imported: an import in a function counts as well, and a
docstring that `NamedTuple` makes up does not.
"""

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

import jaxrnn

ROOT = Path(jaxrnn.__file__).parents[1]

# A module imports only from strictly lower floors, so modules of one floor do not know
# each other. A new module must be placed here.
FLOORS = {
    "jaxrnn.arguments": 0,
    "jaxrnn.cells.base": 0,  # what a cell is
    "jaxrnn.devices": 0,
    "jaxrnn.methods": 0,
    "jaxrnn.ops.chunks": 0,
    "jaxrnn.ops.ids": 0,
    "jaxrnn.ops.placement": 0,
    "jaxrnn.ops.selection": 0,
    "jaxrnn.windows": 0,
    "jaxrnn.cells.contract": 1,  # whether a cell is one
    "jaxrnn.ops.noise": 1,
    "jaxrnn.ops.products": 1,
    "jaxrnn.ops": 2,  # what authors of cells multiply with
    "jaxrnn.ops.normalization": 2,
    "jaxrnn.ops.norms": 2,
    "jaxrnn.ops.dependence": 3,
    "jaxrnn.ops.programs": 2,
    "jaxrnn.cells.activations": 1,
    "jaxrnn.cells.weights": 2,
    "jaxrnn.checks": 2,
    "jaxrnn.ops.folding": 3,
    "jaxrnn.ops.loops": 3,
    "jaxrnn.cells.exposed": 3,
    "jaxrnn.cells.elman": 3,  # the cells, which do not import one another
    "jaxrnn.cells.gru": 3,
    "jaxrnn.cells.indrnn": 3,
    "jaxrnn.cells.layer_norm_gru": 3,
    "jaxrnn.cells.layer_norm_lstm": 3,
    "jaxrnn.cells.leaky": 3,
    "jaxrnn.cells.lru": 3,
    "jaxrnn.cells.lstm": 3,
    "jaxrnn.cells.mgu": 3,
    "jaxrnn.cells.min_gru": 3,
    "jaxrnn.cells.min_lstm": 3,
    "jaxrnn.cells.slstm": 3,
    "jaxrnn.constraints": 3,
    "jaxrnn.files": 3,
    "jaxrnn.losses": 3,
    "jaxrnn.masks": 3,
    "jaxrnn.parallel": 3,
    "jaxrnn.plan": 3,
    "jaxrnn.sharding": 3,
    "jaxrnn.structure": 4,
    "jaxrnn.windows.randomized": 3,
    "jaxrnn.windows.segments": 3,
    "jaxrnn.cells.from_step": 4,
    "jaxrnn.bptt": 4,  # the engine, which knows no cell
    "jaxrnn.cells.noise": 4,  # made from them
    "jaxrnn.layers.base": 4,
    "jaxrnn.cells.gru_variants": 4,
    "jaxrnn.cells.lstm_variants": 4,
    "jaxrnn.cells": 5,  # the list of them
    "jaxrnn.windows.adaptive": 4,
    "jaxrnn.windows.checkpointed": 4,
    "jaxrnn.windows.truncated": 4,
    "jaxrnn.initializers": 4,
    "jaxrnn.decoding": 5,
    "jaxrnn.layers.dropout": 5,
    "jaxrnn.layers.pointwise": 5,
    "jaxrnn.train": 5,
    "jaxrnn.unrolling": 5,
    "jaxrnn.cells.check": 6,
    "jaxrnn.layers.combined": 6,
    "jaxrnn.layers.recurrent": 6,
    "jaxrnn.linearization": 6,
    "jaxrnn.shipping": 6,
    "jaxrnn.flow": 7,
    "jaxrnn.layers": 7,  # their public names
    "jaxrnn.interop.biases": 0,
    "jaxrnn.interop.keys": 1,
    "jaxrnn.interop.layouts": 0,
    "jaxrnn.modules": 0,
    "jaxrnn.modules.conventions": 6,
    "jaxrnn.modules.equinox": 7,
    "jaxrnn.modules.flax": 7,
    "jaxrnn.modules.keras": 7,
    "jaxrnn.modules.linen": 8,
    "jaxrnn.modules.nnx": 8,
    "jaxrnn.interop.weights": 5,
    "jaxrnn.interop.equinox": 7,
    "jaxrnn.interop.flax": 7,
    "jaxrnn.interop.haiku": 7,
    "jaxrnn.interop.keras": 7,
    "jaxrnn.interop.torch": 7,
    "jaxrnn.interop": 9,
    "jaxrnn.interop.onnx.graph": 0,
    "jaxrnn.interop.onnx.package": 0,
    "jaxrnn.interop.onnx.recurrence": 0,
    "jaxrnn.interop.onnx.operators": 1,
    "jaxrnn.interop.onnx.cells": 5,
    "jaxrnn.interop.onnx.weights": 6,
    "jaxrnn.interop.onnx.exporting": 7,
    "jaxrnn.interop.onnx.importing": 7,
    "jaxrnn.interop.onnx": 8,
    "jaxrnn.online.base": 7,  # what a rule is
    "jaxrnn.online.feedback": 3,
    "jaxrnn.online.kronecker": 9,
    "jaxrnn.online.influence": 8,
    "jaxrnn.online.lateral": 9,
    "jaxrnn.online.dni": 8,  # the rules
    "jaxrnn.online.eprop": 11,
    "jaxrnn.online.kf_rtrl": 10,
    "jaxrnn.online.ok": 10,
    "jaxrnn.online.rflo": 10,
    "jaxrnn.online.rtrl": 9,
    "jaxrnn.online.snap": 10,
    "jaxrnn.online.stacked": 8,
    "jaxrnn.online.uoro": 10,
    "jaxrnn.online.driver": 8,
    "jaxrnn.online": 12,
    "jaxrnn": 13,  # the public names
}
# The same for the experiments: what is shared below, tasks in the middle, commands on
# top.
FLOORS_OF_EXPERIMENTS = {
    "experiments": -2,
    "experiments.reading": -1,
    "experiments.screen": -1,
    "experiments.analysis": 0,
    "experiments.analysis.figures": 0,
    "experiments.analysis.tables": 0,
    "experiments.config": 0,
    "experiments.config.load": 0,
    "experiments.config.schema": 0,
    "experiments.data.fetch": 0,
    "experiments.data.musicxml": 0,
    "experiments.data.sequences": 0,
    "experiments.models": 0,
    "experiments.runs": 0,
    "experiments.runs.atomic": 0,
    "experiments.tasks.base": 0,  # what a task is
    "experiments.training": 0,
    "experiments.training.interrupts": 0,
    "experiments.analysis.grid": 1,
    "experiments.commands": 1,
    "experiments.data.digits": 1,
    "experiments.data.chorales": 1,
    "experiments.data.mnist": 1,
    "experiments.data.series": 1,
    "experiments.data.text": 1,
    "experiments.data.vowels": 1,
    "experiments.models.readout": 1,
    "experiments.runs.checkpoint": 1,
    "experiments.runs.tensorboard": 1,
    "experiments.training.optimizer": 1,
    "experiments.data": 2,
    "experiments.models.classifier": 2,
    "experiments.models.language_model": 2,
    "experiments.runs.folder": 2,
    "experiments.models.online": 2,
    "experiments.tasks.sequences": 2,
    "experiments.training.memory": 2,
    "experiments.training.processes": 3,
    "experiments.models.generation": 3,
    "experiments.analysis.forwards": 3,
    "experiments.tasks.classified": 3,
    "experiments.tasks.prepared": 3,
    "experiments.tasks.scored": 3,
    "experiments.training.progress": 4,
    "experiments.training.saving": 5,
    "experiments.training.loop": 6,  # trains any task, so it imports none
    "experiments.tasks.adding": 4,  # the tasks
    "experiments.tasks.chorales": 4,
    "experiments.tasks.copying": 4,
    "experiments.tasks.dependencies": 4,
    "experiments.tasks.digits": 4,
    "experiments.tasks.forecast": 4,
    "experiments.tasks.language_model": 4,
    "experiments.tasks.mnist": 4,
    "experiments.tasks.recall": 4,
    "experiments.tasks.temporal_order": 4,
    "experiments.tasks.vowels": 4,
    "experiments.tasks.recall_stream": 5,
    "experiments.tasks": 6,  # the list of them
    "experiments.runs.open": 7,
    "experiments.analysis.bias": 8,
    "experiments.analysis.curves": 7,
    "experiments.analysis.snapshots": 8,
    "experiments.analysis.fading": 9,
    "experiments.analysis.page": 9,
    "experiments.run": 10,  # the commands
    "experiments.curves": 10,
    "experiments.generate": 10,
    "experiments.microscope": 10,
    "experiments.profiles": 10,
    "experiments.truncation_bias": 10,
    "experiments.twin": 10,
    "experiments.sweep": 11,  # runs them
}
FLOORS_OF_BENCHMARKS = {
    "benchmarks": 0,
    "benchmarks.measure": 0,
    "benchmarks.problem": 0,
    "benchmarks.profile": 0,
    "benchmarks.results": 0,
    "benchmarks.command": 1,
    "benchmarks.contest": 1,  # what a contestant is
    "benchmarks.networks": 1,
    "benchmarks.tables": 1,
    "benchmarks.peers.linear": 2,  # the contestants
    "benchmarks.peers.native": 2,
    "benchmarks.peers.ours": 2,
    "benchmarks.peers.scans": 2,
    "benchmarks.peers.derived": 3,
    "benchmarks.peers.libraries": 3,
    "benchmarks.peers": 4,  # the list of them
    "benchmarks.peers.networks": 4,
    "benchmarks.peers.trainers": 4,
    "benchmarks.arithmetic": 5,  # the commands
    "benchmarks.batched": 5,
    "benchmarks.end_to_end": 5,
    "benchmarks.latency": 5,
    "benchmarks.online": 5,
    "benchmarks.parallel_adjoint": 5,
    "benchmarks.profile.operations": 5,
    "benchmarks.profile.products": 5,
    "benchmarks.report": 5,
    "benchmarks.run": 5,
    "benchmarks.scaling": 5,
    "benchmarks.layers": 6,  # run the contest on other problems
    "benchmarks.long": 6,
}
TREES = {
    "jaxrnn": FLOORS,
    "experiments": FLOORS_OF_EXPERIMENTS,
    "benchmarks": FLOORS_OF_BENCHMARKS,
}
# Beyond the floors: an engine takes any cell, so it imports none.
NO_CELLS = {"activations", "base", "check", "contract", "exposed", "from_step"}
NO_CELLS |= {"noise", "weights"}
CELLS = {
    name
    for name in FLOORS
    if re.match(r"jaxrnn\.cells(\.|$)", name)
    and name.rpartition(".")[2] not in NO_CELLS
}
KNOW_CELLS = CELLS | {"jaxrnn", "jaxrnn.cells.noise", "jaxrnn.initializers"}
KNOW_CELLS |= {"jaxrnn.interop.weights"}
KNOW_CELLS |= {
    f"jaxrnn.modules.{name}" for name in ("conventions", "equinox", "flax", "keras")
}
KNOW_CELLS |= {f"jaxrnn.interop.onnx.{m}" for m in ("cells", "exporting", "weights")}

OUTSIDE = {"jax", "numpy", "jaxtyping"}
OUTSIDE_OF = {
    "jaxrnn.files": {"safetensors"},
    "jaxrnn.interop.onnx.package": {"onnx"},
    "jaxrnn.modules.equinox": {"equinox"},  # the library whose layers it has
    "jaxrnn.modules.keras": {"keras"},
    "jaxrnn.modules.linen": {"flax"},
    "jaxrnn.modules.nnx": {"flax"},
    "jaxrnn.online.driver": {"optax"},  # only where parameters are updated
    "jaxrnn.train": {"optax"},
}
# Other libraries, imported inside the functions that need them.
OUTSIDE_OF |= {
    f"jaxrnn.interop.{name}": {name} for name in ("equinox", "flax", "torch")
}

NO_NAMES = {"utils", "util", "common", "misc", "helpers", "_src"}

SHAPE = re.compile(r"\[[^\]]*([A-Z*]|\.\.\.)[^\]]*\]|\(T, \*B|scalar")
# Takes what has no shape yet: to find out whether it fits is its work.
SHAPELESS = {"jaxrnn.arguments", "jaxrnn.checks"}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules_of(tree):
    return {name_of(path): path for path in sorted((ROOT / tree).rglob("*.py"))}


LIBRARY = modules_of("jaxrnn")
# Each module that has to have a floor, with its tree.
HELD = {name: tree for tree in TREES for name in modules_of(tree)}
# Everything in Python in the repository, but for hidden folders and what is made by
# programs.
EVERYTHING = [
    path
    for top in sorted(ROOT.iterdir())
    if not top.name.startswith(".") and top.name not in ("runs", "build", "dist")
    for path in (sorted(top.rglob("*.py")) if top.is_dir() else [top])
    if path.suffix == ".py"
]

each_module = pytest.mark.parametrize("module", LIBRARY)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path):
    """The full names that a file imports, wherever in it: of `from a import b`, a.b."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules_imported(path, tree="jaxrnn"):
    """The modules of a tree that a file imports, or imports something from."""
    modules = modules_of(tree)
    for name in imports(path):
        if name.split(".")[0] == tree:
            yield name if name in modules else name.rpartition(".")[0]


def public(module):
    """The functions and classes at the top of a module whose names have no leading
    underscore."""
    for node in parsed(LIBRARY[module]).body:
        if isinstance(
            node, ast.FunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("tree", TREES)
def test_every_module_has_its_floor(tree):
    assert set(modules_of(tree)) == set(TREES[tree])


@pytest.mark.parametrize("module", HELD)
def test_a_module_imports_only_from_lower_floors(module):
    tree = HELD[module]
    floors, path = TREES[tree], modules_of(tree)[module]
    for other in modules_imported(path, tree):
        assert floors[other] < floors[module], f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(set(FLOORS) - KNOW_CELLS))
def test_engines_know_no_cell(module):
    assert not CELLS & set(modules_imported(LIBRARY[module]))


@each_module
def test_a_module_needs_only_what_the_library_depends_on(module):
    """Hence nothing of experiments or tests, no chex, and optax in one place."""
    known = (
        {"jaxrnn"} | OUTSIDE | OUTSIDE_OF.get(module, set()) | sys.stdlib_module_names
    )
    assert {name.split(".")[0] for name in imports(LIBRARY[module])} <= known


def test_an_example_needs_only_what_a_user_installs():
    """It is copied as one file, so it imports the public names alone."""
    known = {"jaxrnn", "jax", "numpy", "optax"} | sys.stdlib_module_names
    examples = [path for path in EVERYTHING if path.parent == ROOT / "examples"]
    assert examples
    for path in examples:
        names = set(imports(path))
        assert {name.split(".")[0] for name in names} <= known, path
        assert not any(name.startswith("jaxrnn.") for name in names), path


def test_chex_is_for_tests_alone():
    assert [
        path
        for path in EVERYTHING
        if "tests" not in path.relative_to(ROOT).parts
        and any(name.split(".")[0] == "chex" for name in imports(path))
    ] == []


@pytest.mark.parametrize(
    "path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_private_jax_and_no_postponed_annotations(path):
    """`jax._src` may change any day; postponed annotations are strings, which nothing
    checks."""
    names = set(imports(path))
    assert not any("_src" in name.split(".") for name in names)
    assert not any(
        isinstance(n, ast.Attribute) and n.attr == "_src"
        for n in ast.walk(parsed(path))
    )
    assert "__future__.annotations" not in names


def test_every_name_says_what_is_inside():
    parts = {
        part
        for path in EVERYTHING
        for part in path.relative_to(ROOT).with_suffix("").parts
    }
    assert not parts & NO_NAMES


@each_module
def test_everything_public_has_a_docstring(module):
    assert ast.get_docstring(parsed(LIBRARY[module]))
    assert [node.name for node in public(module) if not ast.get_docstring(node)] == []


@each_module
def test_public_functions_are_annotated(module):
    """All of them, so that what the next test reads is there."""
    missing = []
    for function in public(module):
        if isinstance(function, ast.FunctionDef):
            a = function.args
            given = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
            missing += [
                f"{function.name}({arg.arg})"
                for arg in given
                if arg and not arg.annotation
            ]
            missing += [] if function.returns else [function.name]
    assert missing == []


def has_bare_arrays(node):
    """Whether an annotation has an `Array` without a shape."""
    shaped = [
        child
        for n in ast.walk(node)
        if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Tuple)
        and isinstance(n.slice.elts[-1], ast.Constant)
        for child in ast.walk(n)
    ]  # fmt: skip
    return any(
        isinstance(n, ast.Name) and n.id in ("Array", "ArrayLike") and n not in shaped
        for n in ast.walk(node)
    )


@pytest.mark.parametrize("module", sorted(set(LIBRARY) - SHAPELESS))
def test_arrays_have_shapes(module):
    """Each array of a public function, and each field of a public class, says its
    shape: in its annotation, or else in the docstring, in brackets."""
    silent = []
    for node in public(module):
        if isinstance(node, ast.FunctionDef):
            a = node.args
            given = [*a.posonlyargs, *a.args, *a.kwonlyargs]
            annotations = [arg.annotation for arg in given] + [node.returns]
        else:
            annotations = [
                n.annotation for n in node.body if isinstance(n, ast.AnnAssign)
            ]
        if any(map(has_bare_arrays, filter(None, annotations))) and not SHAPE.search(
            ast.get_docstring(node)
        ):
            silent.append(node.name)
    assert silent == []


def test_the_public_names():
    """`__all__` is sorted, and is all that `__init__` imports: nothing else is defined
    there."""
    imported = [name.rpartition(".")[2] for name in imports(LIBRARY["jaxrnn"])]
    assert jaxrnn.__all__ == sorted(imported)
    assert len(set(imported)) == len(imported)
    assert not list(public("jaxrnn"))
    assert all(hasattr(jaxrnn, name) for name in jaxrnn.__all__)


def test_the_reader_of_sources_reads():
    """What these tests rest on, on a text of which the answer is known."""
    tree = ast.parse(
        'def f(a: Array, b: Float[Array, "T B"], c: tuple[Array, int]) -> int: ...'
    )
    a, b, c = (has_bare_arrays(arg.annotation) for arg in tree.body[0].args.args)
    assert (a, b, c) == (True, False, True)
    assert {"jaxrnn.checks", "jaxrnn.cells.base"} <= set(
        modules_imported(LIBRARY["jaxrnn.unrolling"])
    )
    assert {"jax.lax", "typing.Any"} <= set(imports(LIBRARY["jaxrnn.unrolling"]))


@pytest.mark.parametrize(
    "name", [n for n in jaxrnn.__all__ if isinstance(getattr(jaxrnn, n), jaxrnn.Cell)]
)
def test_every_cell_is_documented_where_it_is_made(name):
    """A value has no `__doc__` of its own: a string below it, which editors show, with
    shapes."""
    body = parsed(LIBRARY[f"jaxrnn.cells.{name}"]).body
    (at,) = [
        i
        for i, node in enumerate(body)
        if isinstance(node, ast.Assign) and [t.id for t in node.targets] == [name]
    ]
    text = body[at + 1]
    assert isinstance(text, ast.Expr) and SHAPE.search(text.value.value)


def test_the_library_says_that_it_is_typed():
    assert (ROOT / "jaxrnn" / "py.typed").is_file()
