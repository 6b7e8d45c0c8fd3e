"""Signals that end a run (Ctrl-C, SIGTERM, a closed terminal), asked for between steps.

Python raises KeyboardInterrupt wherever it stands: between a step's call, which takes
the learner's buffers, and the assignment of its result, where everything would be lost,
or inside a callback, which swallows it.
"""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator

ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)
# Seconds within which further signals count as the first: schedulers, and shells with
# several processes to end, send two in a row.
TOGETHER = 1.0


@contextlib.contextmanager
def interrupts(spare: Container[int] = ()) -> Iterator[Callable[[], str]]:
    """Yields a function that returns the name of the first signal, or nothing.

    A second signal ends the process at once, even inside a compiled program. Signals
    that the process ignores stay ignored, and those to `spare` are left as they are.
    Outside of the main thread, which alone may handle signals, nothing is asked for.
    """
    handled = {
        number: before
        for number in ENDING
        if number not in spare
        and (before := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    if threading.current_thread() is not threading.main_thread() or not handled:
        yield lambda: ""
        return
    asked: list[str] = []
    # Python handles a signal only when the main thread returns from compiled code, but
    # writes its number into this pipe at once.
    read, write = os.pipe()
    os.set_blocking(write, False)
    watcher = threading.Thread(target=_watch, args=(read,), daemon=True)
    watcher.start()
    for number in handled:
        signal.signal(number, lambda n, _: asked.append(signal.Signals(n).name))
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield lambda: asked[0] if asked else ""
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, before in handled.items():
            signal.signal(number, before)
        os.close(write)
        watcher.join()
        os.close(read)


def _watch(read: int) -> None:
    """Ends the process at a second signal."""
    first = math.inf
    while numbers := [number for number in os.read(read, 64) if number in ENDING]:
        if time.monotonic() - first > TOGETHER:
            message = b"error: a second signal: the run ends without a save.\n"
            with contextlib.suppress(OSError):
                os.write(2, message)
            os._exit(128 + numbers[0])
        first = min(first, time.monotonic())
