"""What a finished run left: its config, and the model as it was along the way."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

import jaxrnn
from experiments import checkpoint, config, language_model, models, schema, tasks
from experiments.task import Task


class TrainedLanguageModel(NamedTuple):
    """A language model as its run left it."""

    settings: schema.LanguageModel
    vocabulary: bytes
    cell: jaxrnn.Cell
    params: Any


def load_language_model(run: Path) -> TrainedLanguageModel:
    """Reads the folder of a run; its text is not needed.

    Raises:
      ConfigError, CheckpointError: if it is not the folder of a language model's run.
    """
    settings = config.load(schema.Config, run / "config.json")
    if not isinstance(settings, schema.LanguageModel):
        raise config.ConfigError(
            f"{run} is a run of another task: it has no language model."
        )
    vocabulary = bytes(json.loads((run / "vocabulary.json").read_text()))
    sizes = len(vocabulary), settings.embedding_size
    like = language_model.init(jax.random.key(0), settings.model, *sizes)
    params = checkpoint.restore(run, like)
    return TrainedLanguageModel(
        settings, vocabulary, models.cell_of(settings.model), params
    )


class TrainedTask(NamedTuple):
    """Any run."""

    settings: schema.Experiment
    task: Task
    params: dict[int, Any]
    """By the steps of training after which they were saved: the first is 0, as they began."""


def load(run: Path) -> TrainedTask:
    """Reads the folder of a run of any task, and the data that the task is about.

    Raises:
      ConfigError, CheckpointError: if it is not the folder of a run.
      ValueError, OSError: if the data are not there.
    """
    settings = config.load(schema.Config, run / "config.json")
    steps = checkpoint.steps(run)
    if not steps:
        raise checkpoint.CheckpointError(f"there is no whole checkpoint in {run}.")
    task = tasks.make(settings, Console(quiet=True))
    for name, value in task.leaves.items():
        if json.loads((run / name).read_text()) != value:
            raise checkpoint.CheckpointError(
                f"{run / name} is not what the run's data give now: were they changed since?"
            )
    like = task.init(jax.random.key(settings.seed))
    return TrainedTask(
        settings, task, {s: checkpoint.restore(run, like, s) for s in steps}
    )
