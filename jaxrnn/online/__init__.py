"""Learning forwards in time: gradients without a pass backwards.

A rule carries a trace along with the state, and gives the gradient of each step's loss
as soon as the step is taken (`base.py`): exactly (`rtrl`), or approximately at a
lower cost. Each rule is a module, with its equations, its cost and its source.
"""

from jaxrnn.online.base import Estimator
from jaxrnn.online.dni import SynthesizerParams, dni, synthesizing
from jaxrnn.online.driver import (
    Batch,
    Carry,
    online_start,
    online_train_step,
    online_value_and_grad,
)
from jaxrnn.online.eprop import eprop
from jaxrnn.online.feedback import feedback
from jaxrnn.online.kf_rtrl import kf_rtrl
from jaxrnn.online.ok import ok
from jaxrnn.online.rflo import rflo
from jaxrnn.online.rtrl import rtrl
from jaxrnn.online.snap import snap
from jaxrnn.online.stacked import stacked
from jaxrnn.online.uoro import uoro

__all__ = [
    "Batch",
    "Carry",
    "Estimator",
    "SynthesizerParams",
    "dni",
    "eprop",
    "feedback",
    "kf_rtrl",
    "ok",
    "online_start",
    "online_train_step",
    "online_value_and_grad",
    "rflo",
    "rtrl",
    "snap",
    "stacked",
    "synthesizing",
    "uoro",
]
