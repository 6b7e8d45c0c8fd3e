"""Japanese Vowels as a task."""

import pytest

from experiments.config.load import load_config
from experiments.data import FetchError
from experiments.tasks import Config, vowels


def test_series_that_cannot_be_fetched(monkeypatch):
    def refused(*_):
        raise FetchError("no registry")

    monkeypatch.setattr(vowels.data, "load_vowels", refused)
    config = load_config(Config, "configs/vowels/vowels_gru.toml")
    with pytest.raises(FetchError, match="no registry"):
        config.make(lambda sentence: None)
