"""What all commands share: their arguments, errors, exit codes and output."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from experiments import screen
from experiments.config.load import ConfigError

FAILED, REFUSED, NOT_FINITE = 1, 2, 3
STOPPED = 75  # "try again later" of sysexits.h: a run that was stopped can go on
INTERRUPTED = 130  # what a shell makes of Ctrl-C
# What arguments, files and machines can cause. Anything else is a fault of the program.
EXPECTED = (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError)
TOO_LARGE = (
    "the numbers are too large for this machine. Lower `model.hidden_size`, "
    "`optimizer.batch_size` or the sequence length (`window`, `lag`, `length`, "
    "`delay`)."
)


class Stopped(Exception):
    """A signal stopped a run, whose progress is saved."""


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of `python -m experiments.MODULE`."""
    return argparse.ArgumentParser(
        prog=f"python -m experiments.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the folder of a run, and where to look for one if that is left out."""
    parser.add_argument(
        "run",
        type=Path,
        nargs="?",
        help="the folder of a run (default: the newest finished one)",
    )
    add_root(parser, "where the newest run is looked for")


def add_root(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the folder of all runs."""
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help=f"{what} (default: runs/)"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds what changes a config."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of the config, such as optimizer.steps=100; may be repeated",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="20 steps, to see that it runs, and how it will look",
    )


def carry_out(body: Callable[[], int], failed: int = REFUSED) -> int:
    """Runs a command. Its errors become a line on stderr, and `failed` as exit code.

    A faulty config gives REFUSED, a signal that stopped a run STOPPED, and Ctrl-C
    elsewhere INTERRUPTED.
    """
    _open_streams()
    # A character that the screen lacks must not cost the results of a run.
    with contextlib.suppress(AttributeError):  # a stream that is not a file
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return body()
    except Stopped as stopped:
        return _refuse(stopped, STOPPED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough, as in `| head`
        return 0
    except ConfigError as error:
        return _refuse(error, REFUSED)
    except EXPECTED as error:
        return _refuse(describe(error), failed)
    finally:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):  # the interpreter's own last flush must not fail
            sys.stdout = open(os.devnull, "w")


def describe(error: Exception) -> str:
    """Returns an error's own words, or those for sizes that do not fit."""
    text = str(error).strip() or type(error).__name__
    large = isinstance(error, MemoryError | OverflowError)
    if large or "RESOURCE_EXHAUSTED" in text or "array is too big" in text:
        return f"{TOO_LARGE} ({text.splitlines()[0]})"
    return text


def _refuse(error: object, code: int) -> int:
    """Prints the error. Returns the code."""
    screen.tell("error", error)
    return code


def _open_streams() -> None:
    """Opens the standard streams that are closed, onto nothing.

    The next file of the process would get the number of a closed one, and what
    libraries print would be written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
