"""Opens a run's folder: its config, network, parameters and task."""

import json
import sys
from collections.abc import Iterator, Mapping
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

    def params(self) -> Any:
        """Returns the last parameters that are whole.

        Raises:
          CheckpointError: if none are.
        """
        return next(self._whole(newest_first=True))[1]

    def checkpoints(self) -> dict[int, Any]:
        """Returns all parameters that are whole, by step.

        Raises:
          CheckpointError: if none are.
        """
        return dict(self._whole(newest_first=False))

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

    def _whole(self, newest_first: bool) -> Iterator[tuple[int, Any]]:
        like = self.network.init(jax.random.key(self.config.seed))

        def read(step: int) -> tuple[int, Any]:
            return step, checkpoint.restore(self.folder, checkpoint.PARAMS, like, step)

        return checkpoint.each_whole(self.folder, read, newest_first)


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

    def read(step: int) -> Any:
        return checkpoint.read_about(run, step)["config"]

    then = next(checkpoint.each_whole(run, read, newest_first=True))
    edited = [
        words
        for words in folder.differences(then, config)
        if not words.startswith("`data.")
    ]
    if edited:
        raise CheckpointError(
            f"{run / folder.CONFIG} was edited since the run: {', '.join(edited)}. "
            "Restore it, or train anew with --set."
        )
