"""A second signal ends the process at once; two that come together are one."""

import os
import signal

import pytest

from experiments.training import interrupts


class Ended(Exception):
    pass


@pytest.mark.parametrize(("between", "ends"), [(0.1, False), (1.5, True)])
def test_a_second_signal(monkeypatch, between, ends, capfd):
    def end(code):
        raise Ended(code)

    # Each signal is read by itself.
    read = iter([bytes([signal.SIGINT]), bytes([signal.SIGTERM]), b""])
    now = iter([10.0, 10.0, 10.0 + between, 10.0 + between])
    monkeypatch.setattr(interrupts.os, "_exit", end)
    monkeypatch.setattr(interrupts.os, "read", lambda *_: next(read))
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: next(now))
    if ends:
        with pytest.raises(Ended, match=str(128 + signal.SIGTERM)):
            interrupts._watch(0)
        assert "ends without a save" in capfd.readouterr().err
    else:
        interrupts._watch(0)


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with interrupts.interrupts() as asked:
        assert asked() == ""
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked() == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
