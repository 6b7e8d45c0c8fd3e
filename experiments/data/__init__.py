"""Real data: texts by the byte, sequences and images to classify,
series to forecast, and music.

`fetch.py` gets an archive by its hash and caches its content. The other modules name
what to get, and bring it into the shape that a recurrent network reads: time first.
"""

from experiments.data.chorales import Pieces, load_chorales
from experiments.data.digits import SPEAKERS, Digits, Speaker, load_digits
from experiments.data.fetch import FetchError, HashError, digest
from experiments.data.mnist import Images, load_mnist
from experiments.data.sequences import Classification, Sequences
from experiments.data.series import Measured, Series, load_series
from experiments.data.text import (
    Corpus,
    Windows,
    decode,
    encode,
    load_texts,
    make_vocabulary,
    split_texts,
    stream,
)
from experiments.data.vowels import load_vowels

__all__ = [
    "SPEAKERS",
    "Classification",
    "Corpus",
    "Digits",
    "FetchError",
    "HashError",
    "Images",
    "Measured",
    "Pieces",
    "Sequences",
    "Series",
    "Speaker",
    "Windows",
    "decode",
    "digest",
    "encode",
    "load_chorales",
    "load_digits",
    "load_mnist",
    "load_series",
    "load_texts",
    "load_vowels",
    "make_vocabulary",
    "split_texts",
    "stream",
]
