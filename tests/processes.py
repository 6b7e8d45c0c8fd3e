"""Processes of a test that train together, and the port on which they meet."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import jaxrnn

ROOT = Path(jaxrnn.__file__).parents[1]


@contextlib.contextmanager
def held_port():
    """A port of this host that no other program is given meanwhile."""
    with socket.socket() as held:
        # Bound for as long as the processes run; gRPC sets the same option, so the
        # coordinator can listen on it all the same.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def start(arguments, log, environment=None):
    """Starts Python, with warnings as errors."""
    # What a user has set for JAX, such as a number of devices, is not for these.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    kept |= {"JAX_PLATFORMS": "cpu", "no_proxy": "127.0.0.1"}
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-W", "error", *map(str, arguments)],
            cwd=ROOT,
            env=kept | (environment or {}),
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def end(processes):
    """Ends those that have not ended."""
    for process in processes:
        process.kill()
        process.wait()
