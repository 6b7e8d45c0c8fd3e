"""Opens a run's folder: its config, network, parameters and task."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec

from experiments.config.load import ConfigError, load_config
from experiments.config.schema import Experiment
from experiments.models.readout import Network
from experiments.runs import checkpoint, folder
from experiments.runs.checkpoint import CheckpointError
from experiments.tasks import Config
from experiments.tasks.base import Task


class Opened(NamedTuple):
    """A run that was found to be whole. Parameters and data are read when asked for."""

    folder: Path
    config: Any
    artifacts: Mapping[str, Any]
    network: Network

    def params(self, step: int | None = None) -> Any:
        """Returns the parameters after a step of training. None: the last ones.

        Raises:
          CheckpointError: if they are missing or damaged.
        """
        like = self.network.init(jax.random.key(self.config.seed))
        return checkpoint.restore(self.folder, like, step)

    def checkpoints(self) -> dict[int, Any]:
        """Returns all parameters, by step. The first are those before training."""
        return {step: self.params(step) for step in checkpoint.steps(self.folder)}

    def task(self) -> Task:
        """Reads the data and returns the task.

        Raises:
          ValueError, OSError: if the data are missing, or are not those of the run.
        """
        task = self.config.make(lambda sentence: None)
        for name, value in task.artifacts.items():
            if self.artifacts[name] != value:
                raise CheckpointError(
                    f"{self.folder / name} does not match the data. Were they changed "
                    "since the run?"
                )
        return task


def open_run(run: Path, cls: type[Experiment] | None = None) -> Opened:
    """Opens the folder of a run. With `cls`, it must be a run of that task.

    Raises:
      ConfigError, CheckpointError: if it is not the folder of such a run, if the run
        failed before its first checkpoint, or if a file of it was changed or lost.
    """
    config = load_config(Config, run / folder.CONFIG)
    if cls is not None and not isinstance(config, cls):
        raise ConfigError(
            f"{run} must be a run of the task `{_tag(cls)}`, but is one of "
            f"`{_tag(type(config))}`."
        )
    reason = folder.failure(run)
    if reason and not checkpoint.steps(run):
        raise CheckpointError(f"the run {run} failed: {reason}")
    _check_config(run, msgspec.to_builtins(config))
    artifacts = {name: _read_artifact(run / name) for name in config.artifacts}
    try:
        network = config.network(artifacts)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        names = ", ".join(config.artifacts)
        raise CheckpointError(f"{names} in {run} is damaged: {error}.") from None
    return Opened(run, config, artifacts, network)


def open_asked(
    run: Path | None, root: Path, cls: type[Experiment] | None = None
) -> Opened:
    """Opens the run that a command was asked for: the newest finished one, if none.

    A run that did not end well is opened with a note.

    Raises:
      ConfigError, CheckpointError: as `open_run`; if there is no finished run in
        `root`.
    """
    needs = cls.artifacts[0] if cls is not None and cls.artifacts else ""
    opened = open_run(folder.latest(root, needs) if run is None else run, cls)
    reason = folder.failure(opened.folder)
    if reason:
        step = checkpoint.last_step(opened.folder)
        print(
            f"note: {opened.folder} did not end well ({reason}). Its last checkpoint "
            f"is the one after step {step}.",
            file=sys.stderr,
        )
    return opened


def _tag(cls: type) -> Any:
    return cls.__struct_config__.tag


def _read_artifact(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from None


def _check_config(run: Path, config: dict[str, Any]) -> None:
    """Raises if the config was edited since the run. Data may have moved."""
    step = checkpoint.last_step(run)
    then, now = _flat(checkpoint.read_config(run, step)), _flat(config)
    edited = [
        f"`{key}` is {now.get(key)!r} but was {then.get(key)!r}"
        for key in {**then, **now}
        if now.get(key) != then.get(key) and not key.startswith("data.")
    ]
    if edited:
        raise CheckpointError(
            f"{run / folder.CONFIG} was edited since the run: {', '.join(edited)}. "
            "Restore it, or train anew with --set."
        )


def _flat(table: Any, key: str = "") -> dict[str, Any]:
    """Returns the values of nested tables by dotted keys."""
    if not isinstance(table, dict):
        return {key: table}
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{key}.{name}" if key else name)
    return flat
