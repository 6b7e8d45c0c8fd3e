"""Runs an experiment from its config: `python -m experiments.run configs/NAME.toml`.

    python -m experiments.run configs/shakespeare_lstm.toml --set optimizer.steps=100
    python -m experiments.run configs/shakespeare_lstm.toml --quick

Everything that a config can have wrong is found before JAX is imported.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import config, schema

INTERRUPTED = 130  # what a shell makes of Ctrl-C
# What `--quick` sets, before all that `--set` does: enough to see that all of it runs.
QUICK = "optimizer.steps=20", "evaluations=1"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if the run failed; 2 if its config cannot be used; INTERRUPTED."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description="Runs an experiment from its config.",
    )
    parser.add_argument("config", help="a TOML file, see configs/")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of the config, such as optimizer.steps=100; may be given more than once",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="20 steps, to see that it runs, and how it will look",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="where the run's folder is made: runs/",
    )
    arguments = parser.parse_args(argv)
    try:
        first = QUICK if arguments.quick else ()
        settings = config.load(
            schema.Config, arguments.config, [*first, *arguments.set]
        )
    except config.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    from rich.console import Console

    from experiments import tasks, training
    from experiments.record import Run
    from jaxrnn import devices

    devices.one_per_core()
    # A screen that lacks a character of the text must not cost the results of the run.
    with contextlib.suppress(
        AttributeError
    ):  # a stream that is no terminal and no file
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    console = Console(soft_wrap=True)
    run = Run(arguments.runs, Path(arguments.config).stem, settings)
    try:
        task = tasks.make(settings, console)
        for name, value in task.leaves.items():
            run.write_json(name, value)
        params, results = training.fit(run, console, settings, task)
        task.finish(run, params)
    except KeyboardInterrupt:
        console.print(f"Interrupted. What there is, is in {run.folder}.", markup=False)
        return INTERRUPTED
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    run.write_results(results)
    words = ", ".join(f"{name} {value:.4f}" for name, value in results.items())
    console.print(f"{words}, after {run.seconds:.0f} s.")
    console.print(f"All of it is in {run.folder}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
