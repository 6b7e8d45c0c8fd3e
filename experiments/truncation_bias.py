"""How biased truncated BPTT is on a trained language model, against the window.

    python -m experiments.truncation_bias [RUN_DIR]

For windows of 1, 2, 4, … characters: the relative error of the truncated gradient, and
its cosine with the exact one (full BPTT over all the characters, in checkpointed
windows), on held-out text that the model reads on, trained and untrained. It writes
`truncation_bias.png` and `truncation_bias.csv` to the run's folder, and prints the
window that `jaxrnn.adaptive_truncation` measures.
"""

import sys
from collections.abc import Sequence

from experiments import commands, screen
from experiments.tasks.language_model import LanguageModel

NAME = "truncation_bias"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = commands.make_parser(NAME, __doc__)
    commands.add_run(parser)
    for name, default, what in (
        ("sequences", 32, "stretches of text"),
        ("length", 2048, "characters of each"),
        ("warm", 256, "characters read before"),
    ):
        help = f"{what} (default: {default})"
        parser.add_argument(f"--{name}", type=int, default=default, help=help)
    arguments = parser.parse_args(argv)
    if min(arguments.sequences, arguments.warm) < 1 or arguments.length < 4:
        parser.error(
            "--sequences and --warm must be at least 1, and --length at least 4."
        )

    def body() -> int:
        from experiments.analysis import bias
        from experiments.runs.open import open_asked

        run = open_asked(arguments.run, arguments.runs, LanguageModel)
        sizes = arguments.sequences, arguments.warm, arguments.length
        found, chosen = bias.measure(run, bias.read_stretches(run, *sizes))
        bias.write(found, run.folder / f"{NAME}.csv")
        bias.plot(found, run.folder / f"{NAME}.png")
        screen.say(bias.table(found))
        for name, one in chosen.items():
            screen.say(bias.describe(name, one, arguments.length))
        screen.say(f"The files are {run.folder}/{NAME}.png and {run.folder}/{NAME}.csv")
        return 0

    return commands.carry_out(body)


if __name__ == "__main__":
    sys.exit(main())
