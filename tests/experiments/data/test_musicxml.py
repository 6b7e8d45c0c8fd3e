"""MusicXML from anywhere: its notes, or a clear error."""

import io
import zipfile
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import musicxml
from experiments.data.musicxml import Note

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN"
 "http://www.musicxml.org/dtds/partwise.dtd">
"""
DIVISIONS = "<attributes><divisions>4</divisions></attributes>"
CONTAINER = """<container xmlns="urn:x"><rootfiles><rootfile full-path="s.xml"/>
</rootfiles></container>"""


def note(step="", duration=4, octave=4, more=""):
    pitch = f"<pitch><step>{step}</step><octave>{octave}</octave></pitch>"
    sound = pitch if step else "<rest/>"
    return f"<note>{more}{sound}<duration>{duration}</duration></note>"


def score(*parts, head=HEAD):
    """Parts of measures, each in the XML of its content."""
    inside = "".join(
        "<part>" + "".join(f"<measure>{m}</measure>" for m in measures) + "</part>"
        for measures in parts
    )
    return f"{head}<score-partwise>{inside}</score-partwise>".encode()


def packed(content, container=CONTAINER, name="s.xml"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if container is not None:
            archive.writestr("META-INF/container.xml", container)
        archive.writestr(name, content)
    return file.getvalue()


def read(content, name="toy.xml"):
    return musicxml.read_parts(content, name)


GOOD = score([DIVISIONS + note("C") + note("A", 6)])


@pytest.mark.parametrize("content, name", [(GOOD, "a.xml"), (packed(GOOD), "a.mxl")])
def test_notes_follow_one_another(content, name):
    (part,) = read(content, name)
    assert part == [Note(0, 1, 60), Note(1, Fraction(5, 2), 69)]


def test_rests_chords_voices_and_grace_notes():
    chord, grace = "<chord/>", "<grace/>"
    measure = DIVISIONS + note("C", 8) + note("E", 8, more=chord) + note("", 4)
    measure += f"<note>{grace}<pitch><step>B</step><octave>4</octave></pitch></note>"
    back = "<backup><duration>12</duration></backup>"
    forward = "<forward><duration>2</duration></forward>"
    (part,) = read(score([measure + back + forward + note("C", 2, 3), note("D")]))
    assert part == [
        Note(0, 2, 60), Note(0, 2, 64), Note(Fraction(1, 2), 1, 48), Note(3, 4, 62),
    ]  # fmt: skip


def test_measures_start_together():
    """In the second part, the first one is not filled; it counts in other units."""
    halves = DIVISIONS.replace("4", "2")
    first, second = read(
        score(
            [DIVISIONS + note("C", 12), note("D")],
            [halves + note("E", 2), note("F", 1)],
        )
    )
    assert first == [Note(0, 3, 60), Note(3, 4, 62)]
    assert second == [Note(0, 1, 64), Note(3, Fraction(7, 2), 65)]


def test_accidentals():
    flat = note("B").replace("</step>", "</step><alter>-1</alter>")
    assert read(score([DIVISIONS + flat]))[0][0].pitch == 70


BOMB = (
    """<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>"""
)
OUTSIDE = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>"""


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "must be well-formed XML: no element found"),
        (b"<a><b></a>", "must be well-formed XML: mismatched tag"),
        (b"\xff\xfe\x00", "must be well-formed XML"),
        (b'<?xml version="1.0" encoding="none"?><a/>', "must be well-formed XML"),
        (BOMB.encode() + b"<a>&c;</a>", "must neither declare"),
        (OUTSIDE.encode() + b"<a>&x;</a>", "must neither declare"),
        (b"<!DOCTYPE a [<!ATTLIST a b CDATA 'c'>]><a/>", "must neither declare"),
        (HEAD.encode() + b"<score-partwise>&x;</score-partwise>", "nor use entities"),
        (b"<a>" * 200, "must have at most 100 levels"),
        (b"<score-timewise/>", "must be a `score-partwise`, but got `score-timewise`"),
        (score(), r"must have parts of the same number of measures, but got \[\]"),
        (score([]), r"same number of measures, but got \[0\]"),
        (score([""], ["", ""]), r"same number of measures, but got \[1, 2\]"),
        (score([note("C")]), "part 1, measure 1: `divisions` must come before"),
        (score([DIVISIONS, note("H")]), "measure 2: `step` must be a letter A to G"),
        (
            score([DIVISIONS + note("C", -1)]),
            "`duration` must be a whole number from 0",
        ),
        (score([DIVISIONS + note("C", "9" * 5000)]), "`duration` must be .* got '9+'$"),
        (score([DIVISIONS + note("C", "")]), "`duration` must be a whole number"),
        (score([DIVISIONS.replace("4", "0")]), "`divisions` must be .* from 1 on"),
        (score([DIVISIONS + note("C", 4, 10)]), "must be a MIDI number, but got 132"),
        (
            score([DIVISIONS + note("C", 999_999_999)]),
            "must have at most 20000 quarter",
        ),
        (
            score([DIVISIONS + "<backup><duration>1</duration></backup>"]),
            "a `backup` must end inside the measure",
        ),
    ],
)
def test_a_malformed_or_hostile_file_is_refused(content, message):
    with pytest.raises(ValueError, match=f"toy.*{message}"):
        read(content)
    with pytest.raises(ValueError, match=message):
        read(packed(content), "toy.mxl")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "File is not a zip file"),
        (packed(GOOD)[:-30], "File is not a zip file"),
        (packed(GOOD, None), "no item named 'META-INF/container.xml'"),
        (packed(GOOD, "<container/>"), "must name a root file"),
        (packed(GOOD, name="t.xml"), "no item named 's.xml'"),
        (packed(GOOD, BOMB + "<a>&c;</a>"), "must neither declare"),
    ],
)
def test_a_broken_archive_is_refused(content, message):
    with pytest.raises(ValueError, match=f"toy.mxl must be a packed .*{message}"):
        read(content, "toy.mxl")


def test_what_is_unpacked_is_limited(monkeypatch):
    """Zeros pack well. The size that the archive states is not believed."""
    monkeypatch.setattr(musicxml, "LARGEST", 10_000)
    bomb = packed(b" " * 1_000_000)
    assert len(bomb) < 10_000
    with pytest.raises(ValueError, match=r"`s.xml` must have at most 10000 bytes"):
        read(bomb, "toy.mxl")
    with pytest.raises(ValueError, match=r"toy.xml must have at most 10000 bytes"):
        read(b" " * 10_001)


PIECES = ["<score-partwise>", "</score-partwise>", "<part>", "</part>", "<measure>"]
PIECES += ["</measure>", DIVISIONS, note("C"), note("", 2), "<backup>", "</backup>"]
PIECES += ["<duration>1</duration>", "<note/>", "<forward/>", "&lt;", "&x;", BOMB, "x"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30)
)
def test_any_text_is_read_or_refused(text):
    for content in (text, f"<score-partwise>{text}</score-partwise>"):
        try:
            parts = read(content.encode())
        except ValueError:
            continue
        assert all(0 <= n.start < n.end for part in parts for n in part)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(packed(GOOD)) - 1), st.binary(max_size=2))
def test_a_damaged_archive_is_read_or_refused(place, bytes_there):
    content = packed(GOOD)
    try:
        parts = read(content[:place] + bytes_there + content[place + 1 :], "toy.mxl")
    except ValueError:
        return
    assert parts == read(GOOD)
