"""What the commands share: arguments, and errors of one line with exit code 2."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rich.console import Console

from benchmarks.problem import Shape


class Parser(argparse.ArgumentParser):
    """Shows the docstring as it stands, and an error without the usage."""

    def __init__(self, module: str, description: str | None) -> None:
        super().__init__(f"python -m benchmarks.{module}", None, description)
        self.formatter_class = argparse.RawDescriptionHelpFormatter

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def command(main: Callable[..., int]) -> Callable[..., int]:
    """Reports a user's error, such as a missing file or package, in one line."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except ImportError as error:
            words = f"{error}. Install '.[bench,experiments]', as `make bench` does."
        except (OSError, ValueError) as error:
            words = " ".join(str(error).split())
        print(f"error: {words}", file=sys.stderr)
        return 2

    return run


def argument(rule: str, parse: Callable[[str], Any], obeys: Any = bool) -> Any:
    """Returns the type of an argument, whose error states the rule."""

    def read(text: str) -> Any:
        try:
            if obeys(value := parse(text)):
                return value
        except (TypeError, ValueError):
            pass
        raise argparse.ArgumentTypeError(f"must be {rule}, but got {text!r}")

    return read


def at_least(least: float, kind: type = int) -> Any:
    """Returns the type of a number."""
    name = "a whole number" if kind is int else "a number"
    return argument(f"{name}, at least {least}", kind, lambda number: number >= least)


def names(known: Sequence[str]) -> Any:
    """Returns the type of several names."""
    rule = f"names separated by commas, of {', '.join(known)}"
    return argument(rule, lambda text: text.split(","), {*known}.issuperset)


def _sizes(text: str) -> tuple[int, ...]:
    found = tuple(map(int, text.split(",")))
    return found if min(found) >= 1 else ()


RULE = "whole numbers, at least 1, such as 1000,10000"
sizes = argument(RULE, _sizes)
RULE = 'shapes T,B,I,H, each at least 1, such as "512,16,64,64 25,16,512,512"'
shapes = argument(RULE, lambda text: [Shape(*_sizes(one)) for one in text.split()])


def console() -> Console:
    """Returns a terminal or a file, wide enough for the tables."""
    return Console(width=max(Console().width, 122))
