"""Experiments with `jaxrnn`: commands on top, what they are made of in the folders."""

import signal
import sys

if sys.argv[0] == "-m":  # `python -m experiments.NAME`, before the command is imported
    # Ctrl-C ends the process at once, but for training, which handles it itself
    # (`training.interrupts`). KeyboardInterrupt would end in a traceback while modules
    # are imported, abort one in C++, and be lost inside a callback of JAX.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def _report(kind: type[BaseException], error: BaseException, trace: object) -> None:
        """Prints a line if a package is missing, and a traceback of anything else."""
        if isinstance(error, ModuleNotFoundError):
            sys.stderr.write(
                f"error: the package `{error.name}` is missing. From the folder of the "
                "repository, install all: pip install -e '.[experiments]'\n"
            )
        else:
            sys.__excepthook__(kind, error, error.__traceback__)

    sys.excepthook = _report
