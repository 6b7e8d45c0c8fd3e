"""Real data: texts by the byte, and short multivariate series to classify.

`fetch.py` gets an archive by its hash and caches its content. `text.py` and `vowels.py`
name what to get, and bring it into the shape that a recurrent network reads: time
first.
"""

from experiments.data.fetch import FetchError, HashError
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
from experiments.data.vowels import Classification, Sequences, load_vowels

__all__ = [
    "Classification",
    "Corpus",
    "FetchError",
    "HashError",
    "Sequences",
    "Windows",
    "decode",
    "encode",
    "load_texts",
    "load_vowels",
    "make_vocabulary",
    "split_texts",
    "stream",
]
