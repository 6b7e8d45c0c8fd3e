"""What a config may say: one struct per task, every field with its reason. No JAX here."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(gt=0)]


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """A cell, and how its parameters begin: as `Cell.init` makes them, unless a field says more."""

    cell: Literal["elman", "lstm", "gru"]
    hidden_size: Positive
    activation: Literal["tanh", "logistic", "relu", "identity"] = "tanh"
    """Of an Elman cell; gated cells have theirs."""
    identity: Rate | None = None
    """Elman: the recurrent matrix begins as this times the identity; with relu, the IRNN."""
    spectral_radius: Rate | None = None
    """The recurrent matrix of each gate begins with this spectral radius."""
    chrono: Annotated[float, Meta(gt=2)] | None = None
    """LSTM, GRU: the gates begin with memories of 2 to this many steps."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """That of the cell's matrix products in training; all else, and evaluation, is float32."""

    def __post_init__(self) -> None:
        if self.cell == "elman" and self.chrono is not None:
            raise ValueError('`chrono` is of gates, which `cell = "elman"` has not')
        if self.cell != "elman" and (
            self.activation != "tanh" or self.identity is not None
        ):
            raise ValueError(
                f'`activation` and `identity` are of `cell = "elman"`, not of "{self.cell}"'
            )
        if self.identity is not None and self.spectral_radius is not None:
            raise ValueError(
                "`identity` or `spectral_radius`: the matrix can begin as one alone"
            )


class Optimizer(Struct, frozen=True, forbid_unknown_fields=True):
    """Adam, its rate rising linearly, then falling as a cosine, its gradient clipped by norm."""

    steps: Natural
    """0: the model as it begins is evaluated and saved, and that is all."""
    batch_size: Positive
    learning_rate: Rate
    """The highest."""
    warmup: Share = 0.05
    """Share of the steps in which the rate rises: Adam's second moments are noise at first."""
    final_rate: Share = 0.01
    """The last rate, as a share of the highest."""
    clip: Rate = 1.0
    """The largest global norm of the gradient: one step must not throw away many."""
    second_moment: Annotated[float, Meta(gt=0, lt=1)] = 0.99
    """Adam's b2. Below its usual 0.999: in a few thousand steps the gradient's scale changes."""


class Experiment(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every task has."""

    model: Model
    optimizer: Optimizer
    evaluations: Positive = 10
    """How often to evaluate along the way, the end included; the beginning is not counted."""
    seed: Seed = 0


class Texts(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    """A text file or a folder of them; empty: Shakespeare, fetched once."""
    held_out: Share = 0.05
    """The last share of each text, for validation."""


class LanguageModel(
    Experiment, frozen=True, kw_only=True, tag_field="task", tag="language_model"
):
    """A character-level language model, by truncated BPTT over a stream of windows."""

    embedding_size: Positive
    window: Positive
    """Characters per window: how far back the gradient goes. The state goes on."""
    sample_length: Positive = 500
    temperature: Rate = 0.8
    data: Texts = Texts()


class Vowels(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    """A folder with the two .ts files; empty: fetched once."""


class Classify(
    Experiment, frozen=True, kw_only=True, tag_field="task", tag="classify_vowels"
):
    """JapaneseVowels, many-to-one: nine speakers told apart by series of 7 to 29 steps."""

    input_noise: Annotated[float, Meta(ge=0)] = 0.0
    """Standard deviation of the noise on the standardised inputs: 270 sequences are few."""
    data: Vowels = Vowels()


class Recall(Experiment, frozen=True, kw_only=True, tag_field="task", tag="recall"):
    """A symbol is shown and asked for `lag` steps later, with other symbols in between."""

    lag: Positive
    """Steps from a symbol to the question; the next episode follows at once."""
    window: Positive | None = None
    """Steps of truncated BPTT over the endless stream of episodes: a loss sees no more of them.
    Left out, every episode is a sequence of its own, all of which its loss sees."""
    symbols: Annotated[int, Meta(ge=2)] = 4
    """How many there are: who guesses is right once in so many."""
    vanishing: Annotated[float, Meta(ge=0)] = 0.0
    """Weight of the regulariser Ω against vanishing gradients (Pascanu et al. 2013)."""

    def __post_init__(self) -> None:
        if self.vanishing and self.model.compute_dtype != "float32":
            raise ValueError(
                "`vanishing` is computed in float32: `compute_dtype` must be so too"
            )


class Adding(Experiment, frozen=True, kw_only=True, tag_field="task", tag="adding"):
    """The adding problem: the sum of the two numbers that are marked among `length`."""

    length: Annotated[int, Meta(ge=2)]


class Copying(Experiment, frozen=True, kw_only=True, tag_field="task", tag="copying"):
    """Copying memory: ten symbols, to be said again `delay` + 10 steps later."""

    delay: Positive


class TemporalOrder(
    Experiment, frozen=True, kw_only=True, tag_field="task", tag="temporal_order"
):
    """Two of X and Y among a hundred distractors: which, and in which order?"""


Config = LanguageModel | Classify | Recall | Adding | Copying | TemporalOrder
