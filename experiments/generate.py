"""Streams text from a trained language model: the newest, or that of RUN_DIR.

python -m experiments.generate --prompt "ROMEO:" --temperature 0.8
python -m experiments.generate RUN_DIR
"""

import codecs
import itertools
import math
import os
import sys
from collections.abc import Sequence

from experiments import commands, screen
from experiments.tasks.language_model import VOCABULARY, LanguageModel


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = commands.make_parser("generate", __doc__)
    commands.add_run(parser)
    help = 'beginning of the text (default: "ROMEO:", if the model knows its letters)'
    parser.add_argument("--prompt", help=help)
    help = "characters to draw (default: 500)"
    parser.add_argument("--length", type=int, default=500, help=help)
    help = "the lower, the likelier the characters; at 0, the likeliest (default: 0.8)"
    parser.add_argument("--temperature", type=float, default=0.8, help=help)
    help = "draw from the K likeliest characters alone"
    parser.add_argument("--top-k", type=int, metavar="K", help=help)
    help = "draw from the fewest characters whose probabilities add up to P"
    parser.add_argument("--top-p", type=float, metavar="P", help=help)
    help = "another seed gives another text (default: 0)"
    parser.add_argument("--seed", type=int, default=0, help=help)
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.temperature < math.inf or arguments.length < 0:
        parser.error("--temperature and --length must be at least 0, and finite.")
    if arguments.top_k is not None and arguments.top_k < 1:
        parser.error("--top-k must be at least 1.")
    if arguments.top_p is not None and not 0 < arguments.top_p <= 1:
        parser.error("--top-p must be above 0 and at most 1.")
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
        pieces = generation.generate(
            run.network.body,
            run.params(),
            vocabulary,
            prompt,
            arguments.length,
            arguments.seed,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
        )
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # Errors come with the first piece, before the prompt is printed.
        first = next(pieces, b"")
        screen.say(prompt.decode(errors="replace"), end="")
        for piece in itertools.chain([first], pieces):
            screen.say(decoder.decode(piece), end="")
        screen.say(decoder.decode(b"", final=True))
        return 0

    return commands.carry_out(body)


if __name__ == "__main__":
    sys.exit(main())
