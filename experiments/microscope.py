"""How far back does a trained network learn? A page of figures about a run's gradients.

    python -m experiments.microscope [RUN_DIR]

opens a run of any task, and measures gradients of a loss at the last step of held-out
sequences, with the parameters of every checkpoint. It writes `microscope/index.html` in
the run's folder, and beside it the figures and their numbers, as CSV:

    profile.csv         the adjoint's norm at every lag, at every checkpoint
    horizon.csv         the lag at which 1 % of it is left, and its factor per step
    contributions.csv   each lag's share of the gradient of the recurrent matrix
    spectrum.csv        the leading Lyapunov exponents
    gates.csv           how many steps each unit's keeping gate holds
    forwards.csv        the cosine between rules that learn forwards and BPTT
"""

import sys
from collections.abc import Sequence

from experiments import commands, screen


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = commands.make_parser("microscope", __doc__)
    commands.add_run(parser)
    arguments = parser.parse_args(argv)

    def body() -> int:
        from experiments.analysis import page, snapshots
        from experiments.runs.open import open_asked

        run = open_asked(arguments.run, arguments.runs)
        findings = snapshots.examine(run)
        folder = run.folder / "microscope"
        folder.mkdir(exist_ok=True)
        snapshots.write(findings, folder)
        for sentence in page.write(findings, folder):
            screen.say(sentence)
        screen.say(f"The page is {folder / 'index.html'}")
        return 0

    return commands.carry_out(body)


if __name__ == "__main__":
    sys.exit(main())
