"""Opens a run's folder: its config, network, parameters and task."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec

from experiments import reading, screen
from experiments.config.load import ConfigError, load_config
from experiments.config.schema import Experiment
from experiments.models.readout import Network
from experiments.runs import checkpoint, folder
from experiments.runs.checkpoint import CheckpointError
from experiments.tasks import Config
from experiments.tasks.base import Task
from experiments.training import memory


class Opened(NamedTuple):
    """A run that was found to be whole. Parameters and data are read when asked for."""

    folder: Path
    config: Any
    artifacts: Mapping[str, Any]
    network: Network
    about: Mapping[str, Any]
    """What was saved about the newest checkpoint that is whole."""

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
        # As many characters, of the same kinds, may be another text.
        if self.about["data"] != folder.hash_alone(task.data):
            raise CheckpointError(
                f"the data are not those that {self.folder} was trained on. Restore "
                "them, or train anew."
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
    memory.check_devices()
    config = load_config(Config, run / folder.CONFIG)
    if cls is not None and not isinstance(config, cls):
        raise ConfigError(
            f"{run} must be a run of the task `{_tag(cls)}`, but is one of "
            f"`{_tag(type(config))}`."
        )
    reason = folder.failure(run)
    if reason and not checkpoint.steps(run):
        raise CheckpointError(f"the run {run} failed: {reason}")
    read = partial(checkpoint.read_about, run)
    about = next(checkpoint.each_whole(run, read, newest_first=True))
    _check_config(run, about["config"], msgspec.to_builtins(config))
    artifacts = {name: _read_artifact(run / name) for name in config.artifacts}
    try:
        network = config.network(artifacts)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        names = ", ".join(config.artifacts)
        raise CheckpointError(f"{names} in {run} is damaged: {error}.") from None
    return Opened(run, config, artifacts, network, about)


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
    ended = (opened.folder / folder.RESULTS).exists()
    if reason or not ended:
        how = f"did not end well ({reason})" if reason else "has not ended"
        step = checkpoint.last_step(opened.folder)
        screen.tell(
            "note",
            f"{opened.folder} {how}. Its last checkpoint is the one after step {step}.",
        )
    return opened


def _tag(cls: type) -> Any:
    return cls.__struct_config__.tag


def _read_artifact(file: Path) -> Any:
    try:
        return reading.read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from None


def _check_config(run: Path, then: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises if the config was edited since the run. Data may have moved."""
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
