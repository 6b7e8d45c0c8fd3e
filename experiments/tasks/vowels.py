"""Nine speakers, recognized by series of 7 to 29 steps, many-to-one."""

from typing import Any

from msgspec import Struct

from experiments import data
from experiments.config.schema import Report, Sizes
from experiments.tasks.classified import Classified, make_task


class Series(Struct, frozen=True, forbid_unknown_fields=True):
    """What is read."""

    path: str = ""
    """A folder with the two .ts files. Empty: fetched once."""


class Vowels(Classified, frozen=True, kw_only=True, tag_field="task", tag="vowels"):
    """Japanese Vowels, or a data set of the same form. The last state decides."""

    data: Series = Series()

    def sizes(self) -> Sizes:
        return Sizes(1, 1, 1, "data.path")

    def make(self, report: Report) -> Any:
        report("Reading the series. The first time, they are fetched.")
        vowels = data.load_vowels(self.data.path)
        report(vowels.source)
        return make_task(self, vowels)
