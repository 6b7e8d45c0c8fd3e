"""The README's code runs, and what the README and the pages name exists."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))


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


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "experiments/README.md", *PAGES]
)
def test_what_is_named_is_there(page):
    text, folder = (ROOT / page).read_text(), (ROOT / page).parent
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)) <= set(
        targets
    )
    for path in re.findall(r"\]\(([^):]+)\)", text):
        assert not path.partition("#")[0] or (folder / path.partition("#")[0]).exists()
    for module in re.findall(r"python -m ([a-z_.]+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module
    for pattern in re.findall(r"configs/[a-z0-9_/*{},.]*\.toml", text):
        names, _, braces = pattern.partition("{")
        choices = braces.partition("}")[0].split(",") if braces else [""]
        for choice in choices:
            path = names + choice + braces.partition("}")[2]
            assert list(ROOT.glob(path)), path


def test_every_config_is_told_of():
    """By its name, in a table of the results."""
    told = (ROOT / "docs" / "results.md").read_text()
    listed = set(re.findall(r"^\| \[?`([a-z0-9_]+)`", told, re.MULTILINE))
    assert {path.stem for path in (ROOT / "configs").rglob("*.toml")} <= listed
