"""What every config holds: the model, the optimizer, the evaluations. No JAX here.

The tables of a single task, and its keys, are in the task's own file
(`experiments.tasks`).
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from msgspec import Meta, Struct

# Caps on what can be asked for. They are far above what a machine can do, and low
# enough that every product of two of them is an int64 and every number a float32.
LARGEST = 10**9
LARGEST_FLOAT = 1e38
# Below it, a float32 has fewer digits, and compiled programs take it for 0.
SMALLEST_FLOAT = 1.2e-38

Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Natural = Annotated[int, Meta(ge=0, le=LARGEST)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(ge=SMALLEST_FLOAT, le=LARGEST_FLOAT)]
Weight = Annotated[float, Meta(ge=0, le=LARGEST_FLOAT)]

Report = Callable[[str], None]
"""Prints a sentence for the user."""


class Sizes(NamedTuple):
    """Sizes of the sequences of a task, as far as its config gives them."""

    steps: int
    inputs: int
    outputs: int
    key: str
    """The key of the config that decides most about them."""
    sequences: int = 0
    """Sequences that are drawn at once, beside the batch."""


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """A cell and its initial parameters: `Cell.init`'s, unless a field changes them."""

    cell: str
    """A name in `jaxrnn.cells.CELLS`."""
    hidden_size: Positive
    layers: Annotated[int, Meta(ge=1, le=100)] = 1
    """Recurrent layers, one after another."""
    bidirectional: bool = False
    """Whether each layer reads in both directions. Only where whole sequences are
    read."""
    dropout: Share = 0.0
    """Share of the outputs of each layer that are dropped in training."""
    activation: Literal["tanh", "logistic", "relu", "identity"] = "tanh"
    """Elman only: gated cells have their own."""
    identity: Rate | None = None
    """Elman only: the initial recurrent matrix is this times the identity. With relu,
    the IRNN."""
    spectral_radius: Rate | None = None
    """The initial recurrent matrix of each gate has this spectral radius."""
    chrono: Annotated[float, Meta(gt=2, le=LARGEST_FLOAT)] | None = None
    """Gated cells only: the initial gates remember for 2 to this many steps."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the cell's matrix products in training. All else is float32."""

    def __post_init__(self) -> None:
        if self.cell != "elman" and self.activation != "tanh":
            raise ValueError(
                f'`activation` applies only to `cell = "elman"`, but got "{self.cell}"'
            )
        if self.cell != "elman" and self.identity is not None:
            raise ValueError(
                f'`identity` applies only to `cell = "elman"`, but got "{self.cell}"'
            )
        if self.identity is not None and self.spectral_radius is not None:
            raise ValueError("set either `identity` or `spectral_radius`, not both")


def check_forward(model: Model) -> None:
    """Raises unless the model reads forwards alone, as over a stream it must."""
    if model.bidirectional:
        raise ValueError(
            "`model.bidirectional` needs whole sequences, but this task reads a stream "
            "in windows. Set it to false"
        )


class Optimizer(Struct, frozen=True, forbid_unknown_fields=True):
    """Adam with clipping by norm. Its rate rises linearly, then falls as a cosine."""

    steps: Natural
    """0: the untrained model is evaluated and saved."""
    batch_size: Positive
    learning_rate: Rate
    """The highest rate."""
    warmup: Share = 0.05
    """Share of the steps in which the rate rises: Adam's second moments are noise at
    first."""
    final_rate: Share = 0.01
    """The last rate, as a share of the highest."""
    clip: Rate = 1.0
    """The largest global norm of the gradient: one bad step must not undo many good
    ones."""
    b2: Annotated[float, Meta(gt=0, le=0.9999999)] = 0.99
    """Decay of Adam's second moments. Below the usual 0.999, because the gradient's
    scale changes within a few thousand steps. At most what float32 tells from 1."""


class Experiment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every task has. A task is a subclass, with a tag, and the methods below."""

    artifacts: ClassVar[tuple[str, ...]] = ()
    """Files of the run's folder without which its parameters cannot be read."""

    model: Model
    optimizer: Optimizer
    evaluations: Annotated[int, Meta(ge=1, le=10**6)] = 10
    """Evaluations during training, including the one at the end but not the one before
    it."""
    seed: Seed = 0
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """What follows a step whose loss, gradient or update is not finite, which changes
    nothing: the run stops; or it leaves the batch out; or it goes back to the last
    checkpoint, and on from there after the batch."""
    nonfinite_limit: Annotated[int, Meta(ge=1, le=LARGEST)] = 10
    """Batches that may be left out before the run stops."""
    save_minutes: Rate = 10.0
    """Minutes between checkpoints, beside those at evaluations."""

    def sizes(self) -> Sizes:
        """Returns a lower bound of the sizes, before any data are read."""
        raise NotImplementedError

    def levels(self) -> Mapping[str, float]:
        """Returns losses that are known exactly, by name, for figures of the runs."""
        return {}

    def network(self, artifacts: Mapping[str, Any]) -> Any:
        """Returns the `models.readout.Network`, by the content of the artifacts."""
        raise NotImplementedError

    def make(self, report: Report) -> Any:
        """Reads the data and returns the `tasks.base.Task`.

        Raises:
          ValueError, OSError: if the data are missing, unreadable or too few.
        """
        raise NotImplementedError
