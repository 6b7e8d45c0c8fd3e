"""The README's code runs, and its two commands exist."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.usefixtures("as_users_see_it")
def test_the_ten_lines_train():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    lines = [
        line
        for line in code.splitlines()
        if line.strip() and not line.startswith("import")
    ]
    assert len(lines) <= 10
    names: dict = {}
    exec(code, names)
    before = names["cell"].init(jax.random.key(0), 3, 32)
    assert names["loss"](names["params"]) < names["loss"](before)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(names["grads"]))


@pytest.mark.parametrize("folder", [".", "experiments"])
def test_what_is_named_is_there(folder):
    text = (ROOT / folder / "README.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)) <= set(
        targets
    )
    for path in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / folder / path.partition("#")[0]).exists(), path
    for module in re.findall(r"python -m ([a-z_.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module
    for pattern in re.findall(r"configs/[a-z0-9_/*{},.]*\.toml", text):
        names, _, braces = pattern.partition("{")
        choices = braces.partition("}")[0].split(",") if braces else [""]
        for choice in choices:
            path = names + choice + braces.partition("}")[2]
            assert list(ROOT.glob(path)), path


def test_every_config_is_told_of():
    """By its name, in a table of one of the two READMEs."""
    told = README + (ROOT / "experiments" / "README.md").read_text()
    listed = set(re.findall(r"^\| \[?`([a-z0-9_]+)`", told, re.MULTILINE))
    assert {path.stem for path in (ROOT / "configs").rglob("*.toml")} <= listed
