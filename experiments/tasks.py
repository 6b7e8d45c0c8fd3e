"""The tasks that a config may name."""

from typing import Any

from rich.console import Console

from experiments import classify_vowels, schema, synthetic, train_language_model
from experiments.task import Task

MAKERS: dict[type, Any] = {
    schema.LanguageModel: train_language_model.make,
    schema.Classify: classify_vowels.make,
    schema.Recall: synthetic.make,
    schema.Adding: synthetic.make,
    schema.Copying: synthetic.make,
    schema.TemporalOrder: synthetic.make,
}


def make(config: schema.Experiment, console: Console) -> Task:
    """The task of a config, its data read.

    Raises:
      ValueError, OSError: if the data are not there, or too few.
    """
    return MAKERS[type(config)](config, console)
