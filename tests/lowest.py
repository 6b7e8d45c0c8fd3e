"""Prints the lowest versions that pyproject.toml allows the library, as constraints
for pip."""

import tomllib
from pathlib import Path

if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    for dependency in tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]:
        name, lowest = dependency.split(
            ">="
        )  # an error where a dependency states no floor
        print(f"{name}=={lowest}")  # to pip, 0.8 equals 0.8.0
