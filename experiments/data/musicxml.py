"""Notes out of MusicXML files, plain (.musicxml, .xml) or packed (.mxl).

A packed file is a zip archive whose `META-INF/container.xml` names the score. Files may
come from anywhere: no entity is expanded, nothing outside the file is read, and what is
unpacked, nested or played has limits far above those of real scores.

Only what sounds is read: repeats are played once, and grace notes are left out.
"""

import io
import re
import struct
import zipfile
import zlib
from fractions import Fraction
from pathlib import PurePath
from typing import NamedTuple, NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

# Bytes of an unpacked score, levels of elements, and quarter notes of a piece. A
# movement of a symphony has some 10 MB, a dozen and 2000.
LARGEST, DEEPEST, LONGEST = 64 * 2**20, 100, 20_000
CONTAINER = "META-INF/container.xml"
SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_WHOLE = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,  # it needs a password
    UnicodeError,
    ValueError,
)


class Note(NamedTuple):
    """A pitch that sounds from `start` until `end`, in quarter notes."""

    start: Fraction
    end: Fraction
    pitch: int
    """Its MIDI number: 60 is the middle C."""


class _Measure(NamedTuple):
    notes: list[Note]  # from its start
    length: Fraction


def read_parts(content: bytes, name: str) -> list[list[Note]]:
    """Returns the notes of each part of a score.

    Measures start together in all parts: one that is not filled ends with silence.

    Args:
      content: of the file.
      name: of the file, for messages; `.mxl` means packed.

    Raises:
      ValueError: the file is malformed, declares entities, or is beyond the limits.
    """
    if PurePath(name).suffix == ".mxl":
        content = _unpack(content, name)
    score = parse_xml(content, name)
    if score.tag != "score-partwise":
        raise ValueError(f"{name} must be a `score-partwise`, but got `{score.tag}`")
    parts = [
        _read_part(part, f"{name}, part {number}")
        for number, part in enumerate(score.iterfind("part"), start=1)
    ]
    counts = [len(measures) for measures in parts]
    if not counts or min(counts) != max(counts) or not counts[0]:
        raise ValueError(
            f"{name} must have parts of the same number of measures, but got {counts}"
        )
    return _join(parts, name)


def parse_xml(content: bytes, name: str) -> Element:
    """Returns the root of an XML document that declares nothing of its own.

    A document may name a document type, which is not read. It may not have one inside,
    because entities could be nested until they fill the memory.

    Raises:
      ValueError: it is malformed, has declarations, or is too large or too deep.
    """
    if len(content) > LARGEST:
        raise ValueError(
            f"{name} must have at most {LARGEST} bytes, but got {len(content)}"
        )
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"{name} must have at most {DEEPEST} levels of elements")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def declared(
        doctype: str, system: str | None, public: str | None, has_inside: int
    ) -> None:
        if has_inside:
            refused()

    def refused(*_: object) -> NoReturn:
        raise ValueError(
            f"{name} must neither declare nor use entities, nor hold a document type"
        )

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = declared
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refused
    parser.SkippedEntityHandler = refused  # one that is declared outside, perhaps
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, ParseError, LookupError) as error:
        raise ValueError(f"{name} must be well-formed XML: {error}") from None


def _unpack(content: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            container = parse_xml(_read(archive, CONTAINER, name), CONTAINER)
            # The first root file is the score. The element may have a namespace.
            files = (e for e in container.iter() if e.tag.endswith("rootfile"))
            score = next((e.get("full-path", "") for e in files), "")
            if not score:
                raise ValueError(f"{CONTAINER} must name a root file")
            return _read(archive, score, name)
    except _UNREADABLE as error:
        raise ValueError(f"{name} must be a packed MusicXML file: {error}") from None


def _read(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    """Returns a member, of which no more is unpacked than is allowed."""
    with archive.open(member) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"`{member}` must have at most {LARGEST} bytes")
    return content


def _read_part(part: Element, where: str) -> list[_Measure]:
    measures, divisions = [], 0
    for number, measure in enumerate(part.iterfind("measure"), start=1):
        read, divisions = _read_measure(
            measure, f"{where}, measure {number}", divisions
        )
        measures.append(read)
    return measures


def _read_measure(measure: Element, where: str, divisions: int) -> tuple[_Measure, int]:
    """Returns a measure, and the divisions of a quarter note from there on."""
    notes, now, before, length = [], Fraction(0), Fraction(0), Fraction(0)
    for element in measure:
        if element.tag == "attributes" and element.find("divisions") is not None:
            divisions = _whole(element, "divisions", where, least=1)
        if element.tag not in ("note", "backup", "forward"):
            continue
        if element.find("grace") is not None:
            continue
        if not divisions:
            raise ValueError(f"{where}: `divisions` must come before the first note")
        duration = Fraction(_whole(element, "duration", where, least=0), divisions)
        if element.tag == "backup":
            now -= duration
            if now < 0:
                raise ValueError(f"{where}: a `backup` must end inside the measure")
            continue
        # A note of a chord begins with the one before it.
        begin = before if element.find("chord") is not None else now
        before, now = begin, begin + duration
        length = max(length, now)
        pitch = element.find("pitch")
        if element.tag == "note" and pitch is not None and duration:
            notes.append(Note(begin, now, _midi(pitch, where)))
    return _Measure(notes, length), divisions


def _midi(pitch: Element, where: str) -> int:
    step = pitch.findtext("step", "").strip()
    if step not in SEMITONES:
        raise ValueError(f"{where}: `step` must be a letter A to G, but got {step!r}")
    alter = 0 if pitch.find("alter") is None else _whole(pitch, "alter", where)
    octave = _whole(pitch, "octave", where)
    midi = 12 * (octave + 1) + SEMITONES[step] + alter
    if not 0 <= midi <= 127:
        raise ValueError(f"{where}: a pitch must be a MIDI number, but got {midi}")
    return midi


def _whole(element: Element, tag: str, where: str, least: int | None = None) -> int:
    text = element.findtext(tag, "").strip()
    if not _WHOLE.fullmatch(text) or (least is not None and int(text) < least):
        rule = "a whole number" if least is None else f"a whole number from {least} on"
        raise ValueError(f"{where}: `{tag}` must be {rule}, but got {text[:20]!r}")
    return int(text)


def _join(parts: list[list[_Measure]], name: str) -> list[list[Note]]:
    """Returns the notes of each part from the start of the piece."""
    joined: list[list[Note]] = [[] for _ in parts]
    start = Fraction(0)
    for measures in zip(*parts, strict=True):
        for notes, measure in zip(joined, measures, strict=True):
            notes += [
                Note(start + begin, start + end, pitch)
                for begin, end, pitch in measure.notes
            ]
        start += max(measure.length for measure in measures)
        if start > LONGEST:
            raise ValueError(f"{name} must have at most {LONGEST} quarter notes")
    return joined
