"""What a finished run left: its config, and the model that it trained."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxrnn
from experiments import checkpoint, config, language_model, schema
from experiments.cells import cell_of


class TrainedLanguageModel(NamedTuple):
    """A language model as its run left it."""

    settings: schema.LanguageModel
    vocabulary: bytes
    cell: jaxrnn.Cell
    params: Any


def load_language_model(run: Path) -> TrainedLanguageModel:
    """Reads the folder of a run.

    Raises:
      ConfigError, CheckpointError: if it is not the folder of a language model's run.
    """
    settings = config.load(schema.Config, run / "config.json")
    if not isinstance(settings, schema.LanguageModel):
        raise config.ConfigError(f"{run} is a run of another task: it has no language model.")
    vocabulary = bytes(json.loads((run / "vocabulary.json").read_text()))
    cell = cell_of(settings.model)

    def init() -> Any:
        sizes = len(vocabulary), settings.embedding_size, settings.model.hidden_size
        return language_model.init(jax.random.key(0), cell, *sizes)

    params = checkpoint.restore(run, jax.eval_shape(init))
    return TrainedLanguageModel(settings, vocabulary, cell, params)
