"""Texts of others are printed, but do not control the terminal, nor fill it."""

import io
import sys

import pytest

from experiments import commands, screen

ESCAPE = "\x1b]0;X\x07"


def test_a_terminal_is_shown_pictures_of_control_characters(capsys):
    screen.tell("error", f"{ESCAPE} a\tb\nc \udcff \x7f\x9b é")
    assert capsys.readouterr().err == "error: ␛]0;X␇ a\tb\nc \\udcff ␡� é\n"
    console = screen.make_screen()
    console.print(ESCAPE, markup=False)
    assert capsys.readouterr().out == "␛]0;X␇\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_file_gets_a_text_as_it_is(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    screen.say(ESCAPE, end="")
    assert capsys.readouterr().out == ("␛]0;X␇" if terminal else ESCAPE)


def test_two_megabytes_are_cut(capsys):
    def body():
        raise ValueError("a" + "x" * 2_000_000 + "z")

    assert commands.carry_out(body) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ax") and line.endswith("xz\n") and len(line) < 2100


class Full(io.StringIO):
    """A stream onto a full disk, or to a reader that has gone."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_no_message_is_worth_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())
    screen.tell("note", "lost")
    monkeypatch.setattr(sys, "stdout", Full())
    screen.make_screen().print("lost")
