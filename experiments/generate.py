"""Streams text from a trained language model: the newest, or that of RUN_DIR.

python -m experiments.generate --prompt "ROMEO:" --temperature 0.8
python -m experiments.generate RUN_DIR
"""

import codecs
import itertools
import os
import sys
from collections.abc import Sequence

from experiments import commands
from experiments.tasks.language_model import VOCABULARY, LanguageModel


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = commands.make_parser("generate", __doc__)
    commands.add_run(parser)
    help = 'beginning of the text (default: "ROMEO:", if the model knows its letters)'
    parser.add_argument("--prompt", help=help)
    help = "characters to draw (default: 500)"
    parser.add_argument("--length", type=int, default=500, help=help)
    help = "above 0; the lower, the likelier the characters (default: 0.8)"
    parser.add_argument("--temperature", type=float, default=0.8, help=help)
    help = "another seed gives another text (default: 0)"
    parser.add_argument("--seed", type=int, default=0, help=help)
    arguments = parser.parse_args(argv)
    if not arguments.temperature > 0 or arguments.length < 0:
        parser.error("--temperature must be above 0, and --length at least 0.")
    if not 0 <= arguments.seed < 2**32:
        parser.error("--seed must be in 0 … 2³² - 1.")

    def body() -> int:
        from experiments.models import generation
        from experiments.runs.open import open_asked

        run = open_asked(arguments.run, arguments.runs, LanguageModel)
        vocabulary = bytes(run.artifacts[VOCABULARY])
        prompt = generation.choose_prompt(vocabulary)
        if arguments.prompt is not None:
            prompt = os.fsencode(arguments.prompt)
        how = arguments.length, arguments.temperature, arguments.seed
        model = run.network.body, run.params(), vocabulary
        pieces = generation.generate(*model, prompt, *how)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # Errors come with the first piece, before the prompt is printed.
        first = next(pieces, b"")
        print(prompt.decode(errors="replace"), end="")
        try:
            for piece in itertools.chain([first], pieces):
                print(decoder.decode(piece), end="", flush=True)
        except KeyboardInterrupt:  # the reader has seen enough
            print()
            return 0
        print(decoder.decode(b"", final=True))
        return 0

    return commands.carry_out(body)


if __name__ == "__main__":
    sys.exit(main())
