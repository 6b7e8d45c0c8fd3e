"""Runs an experiment from its config.

    python -m experiments.run configs/shakespeare/shakespeare_lstm.toml --quick
    python -m experiments.run configs/shakespeare/shakespeare_lstm.toml \\
        --set optimizer.steps=100

Faults of the config are found before the run's folder is made, and nearly all of them
before JAX is imported.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import commands
from experiments.config.load import load_config
from experiments.config.schema import Experiment
from experiments.runs.folder import Outcome, Run
from experiments.tasks import Config

if TYPE_CHECKING:
    from rich.console import Console

# What `--quick` sets, before everything that `--set` does: enough to see that it all
# runs.
QUICK = "optimizer.steps=20", "evaluations=1"


def run(config: Experiment, root: Path, name: str, console: "Console") -> Outcome:
    """Trains, in a new folder under `root`.

    Raises:
      ConfigError: if the config does not fit the library or the machine, or no folder
        can be made.
      KeyboardInterrupt: after Ctrl-C. What there is by then is in the folder.
    """
    from experiments.training import loop, memory

    memory.check_fits(config)
    try:
        task = config.make(lambda sentence: console.print(sentence, markup=False))
    except commands.EXPECTED as error:
        return Outcome(None, {}, commands.describe(error))
    folder = Run(root, name, config)
    try:
        for file, value in task.artifacts.items():
            folder.write_json(file, value)
        params, results = loop.train(config, task, folder, console)
        for file, text in task.finish(params).items():
            folder.write(file, text)
            console.rule(file)
            console.print(text, markup=False, highlight=False)
            console.rule()
    except KeyboardInterrupt:
        folder.write_failure("it was interrupted")
        console.print(f"Interrupted. Its folder is {folder.folder}", markup=False)
        raise
    except commands.EXPECTED as error:
        folder.write_failure(commands.describe(error))
        return Outcome(folder.folder, {}, commands.describe(error))
    return Outcome(folder.folder, folder.write_results(results))


def make_console() -> "Console":
    """Makes a device of every core, before JAX is used, and returns the screen."""
    from rich.console import Console

    from jaxrnn import devices

    devices.one_per_core()
    return Console(soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if the run failed; 2 if its config cannot be used."""
    parser = commands.make_parser("run", __doc__)
    parser.add_argument("config", help="a TOML file, see configs/")
    commands.add_settings(parser)
    commands.add_root(parser, "where the run's folder is made")
    arguments = parser.parse_args(argv)

    def body() -> int:
        overrides = [*(QUICK if arguments.quick else ()), *arguments.set]
        config = load_config(Config, arguments.config, overrides)
        console = make_console()
        outcome = run(config, arguments.runs, Path(arguments.config).stem, console)
        if outcome.error:
            print(f"error: {outcome.error}", file=sys.stderr)
            return commands.FAILED
        *numbers, (_, seconds) = outcome.results.items()
        words = (f"{k} {'null' if v is None else f'{v:.4f}'}" for k, v in numbers)
        console.print(f"{', '.join(words)}, after {seconds:.0f} s", markup=False)
        console.print(
            f"All files are in {outcome.folder}", markup=False, highlight=False
        )
        return 0

    return commands.carry_out(body, commands.FAILED)


if __name__ == "__main__":
    sys.exit(main())
