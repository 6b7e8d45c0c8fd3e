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
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("import")]
    assert len(lines) <= 10
    names: dict = {}
    exec(code, names)
    before = names["cell"].init(jax.random.key(0), 3, 32)
    assert names["loss"](names["params"]) < names["loss"](before)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(names["grads"]))


def test_what_the_readme_names_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", README, re.MULTILINE)) <= set(targets)
    for path in re.findall(r"\]\(([^):]+)\)", README):
        assert (ROOT / path.partition("#")[0]).is_file(), path
    listed = set(re.findall(r"`([a-z_]+)`\]\(configs/", README))
    assert listed == {path.stem for path in (ROOT / "configs").glob("*.toml")}
