"""Ctrl-C, asked for between steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether Ctrl-C was pressed. The next acts at once.

    Python raises KeyboardInterrupt wherever it stands: between a step's call, which
    takes the learner's buffers, and the assignment of its result, where everything
    would be lost, or inside a callback, which swallows it.
    """
    asked = []
    before = signal.getsignal(signal.SIGINT)

    def remember(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, before)
        asked.append(number)

    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or before in (signal.SIG_IGN, None):
        # Only the main thread may set a handler, and receives Ctrl-C. A process that
        # ignores it does so on purpose.
        yield lambda: False
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
