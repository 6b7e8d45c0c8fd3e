"""The README's code runs, and what the README and the pages name exists."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))


@pytest.mark.usefixtures("as_users_see_it")
def test_the_first_code_trains_a_network_and_uses_it():
    """It goes on with sines better than a forecast of zero or of no change would."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    forecast = jnp.stack(names["forecast"])
    steps = 101 + jnp.arange(len(forecast))
    waves = jnp.sin(0.3 * steps[:, None] + jnp.arange(8))[..., None]

    def error(of):
        return jnp.mean((of - waves) ** 2)

    assert 10 * error(forecast) < min(error(0.0), error(names["waves"][-1]))


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
    for module in re.findall(r"python -m (?!pytest)([a-z_.]+)", text):
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
