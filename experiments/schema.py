"""What a config may say: one struct per task, every field with its reason. No JAX here."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(gt=0)]


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    cell: Literal["elman", "lstm", "gru"]
    hidden_size: Positive
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """That of the cell's matrix products in training; all else, and evaluation, is float32."""


class Optimizer(Struct, frozen=True, forbid_unknown_fields=True):
    """Adam, its rate rising linearly, then falling as a cosine, its gradient clipped by norm."""

    steps: Positive
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


class Texts(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    """A text file or a folder of them; empty: Shakespeare, fetched once."""
    held_out: Share = 0.05
    """The last share of each text, for validation."""


class LanguageModel(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="task", tag="language_model"
):
    """A character-level language model, by truncated BPTT over a stream of windows."""

    model: Model
    optimizer: Optimizer
    embedding_size: Positive
    window: Positive
    """Characters per window: how far back the gradient goes. The state goes on."""
    evaluations: Positive = 10
    """How often to validate along the way, the end included."""
    sample_length: Positive = 500
    temperature: Rate = 0.8
    seed: Seed = 0
    data: Texts = Texts()


class Vowels(Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    """A folder with the two .ts files; empty: fetched once."""


class Classify(
    Struct, frozen=True, forbid_unknown_fields=True, tag_field="task", tag="classify_vowels"
):
    """JapaneseVowels, many-to-one: nine speakers told apart by series of 7 to 29 steps."""

    model: Model
    optimizer: Optimizer
    input_noise: Annotated[float, Meta(ge=0)] = 0.0
    """Standard deviation of the noise on the standardised inputs: 270 sequences are few."""
    evaluations: Positive = 10
    seed: Seed = 0
    data: Vowels = Vowels()


class Recall(Struct, frozen=True, forbid_unknown_fields=True, tag_field="task", tag="recall"):
    """A symbol is shown and asked for `lag` steps later, with other symbols in between."""

    model: Model
    optimizer: Optimizer
    lag: Positive
    """Steps from a symbol to the question; the next episode follows at once."""
    window: Positive
    """Steps of truncated BPTT over the endless stream of episodes: a loss sees no more of them."""
    symbols: Annotated[int, Meta(ge=2)] = 4
    """How many there are: who guesses is right once in so many."""
    evaluations: Positive = 10
    seed: Seed = 0


Config = LanguageModel | Classify | Recall
