"""What people see. A screen may vanish, and texts of others must not control it."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Letters of a message at most: half of them from its beginning, and half from its end.
LONGEST = 2000
# Control characters, but for tabs and line ends, are replaced by Unicode's pictures of
# them: a terminal would obey them. Those above 127 have no pictures.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_PICTURES |= {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def printable(text: str) -> str:
    """Returns a text that can be printed, whatever it came from."""
    # Bytes of the command line that are not text arrive as lone surrogates.
    return text.encode(errors="backslashreplace").decode().translate(_PICTURES)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Returns the beginning and the end of a text that is too long."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


def tell(kind: str, words: object) -> None:
    """Prints "kind: words" on standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError):  # full, or closed
        print(f"{kind}: {shortened(printable(str(words)))}", file=sys.stderr)


def say(text: str, end: str = "\n") -> None:
    """Prints a text on standard output: as it is, unless that is a terminal."""
    print(printable(text) if sys.stdout.isatty() else text, end=end, flush=True)


class _Patient:
    """A stream whose reader may leave, as in `| head`, or whose disk may be full."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_screen() -> "Console":
    """Returns a console on standard output that never raises, and prints any text."""
    from rich.console import Console

    class Screen(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            shown = (printable(o) if isinstance(o, str) else o for o in objects)
            super().print(*shown, **options)

    patient: Any = _Patient(sys.stdout)
    return Screen(file=patient, soft_wrap=True)
