"""The tasks. To add one: write its file, list it here, add a config and a test.

A task's file holds its config, the drawing or reading of its data, and `make`. It
imports no JAX before `make` is called, so that configs are checked first.
"""

import functools
import operator
from typing import Any

from experiments.tasks.adding import Adding
from experiments.tasks.chorales import Chorales
from experiments.tasks.copying import Copying
from experiments.tasks.dependencies import Dependencies
from experiments.tasks.digits import Digits
from experiments.tasks.forecast import Forecast
from experiments.tasks.language_model import LanguageModel
from experiments.tasks.mnist import Mnist
from experiments.tasks.recall import Recall
from experiments.tasks.recall_stream import RecallStream
from experiments.tasks.temporal_order import TemporalOrder
from experiments.tasks.vowels import Vowels

TASKS = (
    Adding,
    Chorales,
    Copying,
    Dependencies,
    Digits,
    Forecast,
    LanguageModel,
    Mnist,
    Recall,
    RecallStream,
    TemporalOrder,
    Vowels,
)

Config: Any = functools.reduce(operator.or_, TASKS)
"""A config of any task. Its key `task` chooses which."""
