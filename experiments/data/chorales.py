"""Pieces of music as the keys that sound at each step: Bach's four-part chorales.

A step is a quarter note, as in N. Boulanger-Lewandowski, Y. Bengio and P. Vincent,
"Modeling Temporal Dependencies in High-Dimensional Sequences", ICML 2012,
arXiv:1206.6392, who have other chorales and another way to write them down.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from experiments import reading
from experiments.data import fetch, musicxml

# Keys of a piano, from the lowest A of MIDI number 21 on.
KEYS, LOWEST = 88, 21
SUFFIXES = (".mxl", ".musicxml", ".xml")

CHORALES = """
10.7 101.7 102.7 103.6 104.6 108.6 11.6 110.7 111.6 112.5 113.8 114.7 115.6 116.6 117.4
119.9 120.6 121.6 122.6 123.6 125.6 126.6 127.5 13.6 133.6 135.6 139.6 14.5 140.7 144.3
144.6 145-a 145.5 146.8 148.6 151.5 153.1 153.5 153.9 154.3 154.8 155.5 156.6 157.5
158.4 159.5 16.6 162.6-lpz 164.6 165.6 166.6 168.6 169.7 17.7 174.5 176.6 177.4 177.5
178.7 179.6 18.5-lz 18.5-w 180.7 183.5 184.5 187.7 188.6 190.7 194.12 194.6 197.10 197.5
197.7-a 2.6 20.11 20.7 226.2 227.1 227.11 227.7 229.2 24.6 244.10 244.15 244.17 244.25
244.29-a 244.3 244.32 244.37 244.40 244.44 244.46 244.54 244.62 245.11 245.14 245.15
245.17 245.22 245.26 245.28 245.3 245.37 245.40 245.5 248.12-2 248.23-s 248.28 248.33-3
248.35-3 248.42-s 248.46-5 248.5 248.53-5 248.64-s 25.6 253 254 255 256 257 258 259 26.6
260 261 262 263 264 265 266 267 268 269 270 271 272 273 274 275 276 277 278 279 28.6 280
281 282 283 284 285 286 287 288 289 290 291 292 293 294 295 296 297 298 299 3.6 30.6 300
301 302 303 304 305 306 307 308 309 310 311 312 313 314 315 316 317 318 319 32.6 320 321
322 323 324 325 326 327 328 329 33.6 330 331 332 333 334 335 336 337 338 339 340 341 342
343 344 345 346 347 348 349 350 351 352 353 354 355 356 357 358 359 36.4-2 36.8-2 360
361 362 363 364 365 366 367 368 369 37.6 370 371 372 373 374 375 376 377 378 379 38.6
380 381 382 383 384 385 386 387 388 389 39.7 390 391 392 393 394 395 396 397 399 4.8
40.3 40.6 40.8 400 401 402 403 404 405 406 407 408 409 410 411 412 413 414 415 416 417
418 419 42.7 420 421 422 423 424 425 426 427 428 429 43.11 430 431 432 433 434 435 436
437 438 44.7 45.7 46.6 47.5 48.3 48.7 5.7 55.5 56.5 57.8 6.6 60.5 64.2 64.4 64.8 65.2
65.7 66.6 67.7 69.6-a 7.7 70.7 72.6 73.5 74.8 77.6 78.7 80.8 81.7 83.5 84.5 85.6 86.6
87.7 88.7 89.6 9.7 90.5 92.9 93.7 94.8 96.6 99.6
""".split()
"""Numbers in Bach's catalog, of all files with four parts. Of two that are alike at
every quarter note there is one."""


class Pieces(NamedTuple):
    """N pieces, one after another."""

    keys: UInt8[np.ndarray, "steps 88"]
    """1 where a key sounds at the start of a step."""
    lengths: Int32[np.ndarray, " N"]
    """Steps of each piece."""
    source: str
    """One sentence for the caller to print."""


def load_chorales(path: str = "") -> Pieces:
    """Loads pieces of music.

    Args:
      path: a MusicXML file of the user's own, or a folder of them, which are read in
        the order of their names. The empty string stands for Bach's chorales.

    Raises:
      OSError: a file is missing or cannot be read.
      ValueError: there are no files, or one is not in the format (with its name).
      fetch.FetchError, fetch.HashError: the chorales could not be fetched.
    """
    if path:
        files = _find(reading.user_path(path))
        arrays = _arrays([(_read(file), str(file)) for file in files])
    else:
        arrays = fetch.load(BACH)
    steps, pieces = len(arrays["keys"]), len(arrays["lengths"])
    extent = f"{pieces} pieces, {steps:,} quarter notes"
    return Pieces(**arrays, source=f"{path or 'Chorales by Bach'}: {extent}.")


def _find(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise ValueError(f"{path} must have files {', '.join(SUFFIXES)}, but has none")
    return files


def _read(file: Path) -> bytes:
    size = file.stat().st_size
    if size > musicxml.LARGEST:
        raise ValueError(
            f"{file} must have at most {musicxml.LARGEST} bytes, but has {size}"
        )
    return reading.read_bytes(file)


def _arrays(files: list[tuple[bytes, str]]) -> fetch.Arrays:
    pieces = [_keys(content, name) for content, name in files]
    lengths = np.array([len(keys) for keys in pieces], np.int32)
    return {"keys": np.concatenate(pieces), "lengths": lengths}


def _keys(content: bytes, name: str) -> UInt8[np.ndarray, "T 88"]:
    """Returns the keys that sound at the start of each quarter note."""
    notes = [note for part in musicxml.read_parts(content, name) for note in part]
    if not notes:
        raise ValueError(f"{name} must have notes, but has none")
    keys = np.zeros((math.ceil(max(note.end for note in notes)), KEYS), np.uint8)
    for note in notes:
        key = note.pitch - LOWEST
        if not 0 <= key < KEYS:
            raise ValueError(
                f"{name} must be for the {KEYS} keys of a piano, MIDI numbers {LOWEST} "
                f"to {LOWEST + KEYS - 1}, but has {note.pitch}"
            )
        keys[math.ceil(note.start) : math.ceil(note.end), key] = 1
    return keys


def _convert(members: list[bytes]) -> fetch.Arrays:
    names = (f"bwv{number}.mxl" for number in CHORALES)
    return _arrays(list(zip(members, names, strict=True)))


BACH = fetch.Archive(
    name="music21",
    version="10.5.1",
    wheel=True,
    sha256="dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
    members=tuple(f"music21/corpus/bach/bwv{number}.mxl" for number in CHORALES),
    convert=_convert,
    golden="adb6d2bf3c273c4d7e4939922cc7dabfbadb03ca3784dbd01314a68d03a7884c",
)
"""Editions of several kinds, as music21 carries them: to be used, not to be passed on.
"""
