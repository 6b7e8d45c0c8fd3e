"""What a cluster makes of a recurrent network: the formulas of docs/scaling.md.

    python -m benchmarks.arithmetic
    python -m benchmarks.arithmetic --units 1024,4096 --rows 8 --latency 3e-5

An LSTM with I = H, float32, on devices that reach so many operations and bytes of
memory per second, and send so many bytes per second to each other. All figures are
computed from these four numbers; none is measured.
"""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import command, tables

FLOAT, GATES = 4, 4  # bytes; an LSTM's


class Machine(NamedTuple):
    """The speed that a program reaches on a device, not what the maker promises."""

    flops: float
    """Operations per second."""
    memory: float
    """Bytes per second from memory."""
    link: float
    """Bytes per second that a device sends to the others."""
    latency: float
    """Seconds that a collective takes however little it moves."""


def weights(units: int) -> int:
    """Returns |θ| = 4H (I + H + 1), with I = H."""
    return GATES * units * (2 * units + 1)


def all_reduce(machine: Machine, size: float, devices: int) -> float:
    """Returns the seconds of a sum of `size` bytes, left on every device."""
    return machine.latency + 2 * (devices - 1) / devices * size / machine.link


def all_gather(machine: Machine, size: float, devices: int) -> float:
    """Returns the seconds of a gather of `size` bytes in all; a scattered sum's too."""
    return machine.latency + (devices - 1) / devices * size / machine.link


def product(machine: Machine, rows: float, weights: float) -> float:
    """Returns the seconds in which rows are multiplied by a matrix: the slower of two.

    It takes two operations for each row and weight, and reads each weight once.
    """
    computed = 2 * rows * weights / machine.flops
    return max(computed, FLOAT * weights / machine.memory)


def recurrent(machine: Machine, units: int, rows: float, devices: int = 1) -> float:
    """Returns the seconds of one step's h W_hh, hidden-sharded over the devices."""
    own = product(machine, rows, GATES * units**2 / devices)
    if devices == 1:
        return own
    return own + all_gather(machine, FLOAT * rows * units, devices)


def training_step(machine: Machine, units: int, steps: int, rows: float) -> float:
    """Returns the seconds of the products of a gradient, on one device.

    Each of T steps has a product each way. Four more have all T·B rows: x W_ih, dW_ih,
    dW_hh and dx.
    """
    outside = 4 * product(machine, steps * rows, GATES * units**2)
    return 2 * steps * recurrent(machine, units, rows) + outside


def break_even(machine: Machine, devices: int) -> float:
    """Returns T·B/n, from which on computing takes longer than the gradients' sum.

    A device computes 6 operations for each weight and row, and sends 2 (n - 1)/n · 4
    bytes for each weight, so the number of weights cancels. It is an upper bound:
    products of few rows take longer than their operations.
    """
    sent = 2 * (devices - 1) / devices * FLOAT / machine.link
    return sent / (6 / machine.flops)


def least_units(machine: Machine, devices: int) -> float:
    """Returns H, from which on a hidden-sharded step is faster, if B is small.

    Each weight is then read once a step, in 16 H²/M seconds: n devices save (n - 1)/n
    of it, and pay the latency of a collective.
    """
    saved = (devices - 1) / devices * FLOAT * GATES / machine.memory
    return (machine.latency / saved) ** 0.5


def data_parallel(
    machine: Machine, units: Sequence[int], steps: int, rows: int, devices: int
) -> tuple[list[str], list[list[str]]]:
    """Returns a head and rows: what the sum of the gradients costs."""
    head = ["H", "gradients, MB", "sum, ms", "products of a step, ms", "sum / products"]
    found = []
    for size in units:
        sent = FLOAT * weights(size)
        summed = all_reduce(machine, sent, devices)
        computed = training_step(machine, size, steps, rows)
        figures = [sent / 1e6, 1e3 * summed, 1e3 * computed, summed / computed]
        found.append([f"{size:,}", *map(_words, figures)])
    return head, found


def model_parallel(
    machine: Machine, units: Sequence[int], rows: int, devices: int
) -> tuple[list[str], list[list[str]]]:
    """Returns a head and rows: what a hidden-sharded step costs, and saves."""
    head = ["H", "W_hh, MB", "one device, µs", "gathered, kB", "gather, µs"]
    head += [f"{devices} devices, µs", "times as fast"]
    found = []
    for size in units:
        moved = FLOAT * rows * size
        alone = recurrent(machine, size, rows)
        split = recurrent(machine, size, rows, devices)
        figures = [FLOAT * GATES * size**2 / 1e6, 1e6 * alone, moved / 1e3]
        gather = 1e6 * all_gather(machine, moved, devices)
        figures += [gather, 1e6 * split, alone / split]
        found.append([f"{size:,}", *map(_words, figures)])
    return head, found


def _words(figure: float) -> str:
    """Returns three digits, without an exponent."""
    return f"{float(f'{figure:.3g}'):,g}"


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints both tables in Markdown."""
    parser, count = command.Parser("arithmetic", __doc__), command.at_least(1)
    add, speed = parser.add_argument, command.at_least(1, float)
    add("--units", type=command.sizes, default=[512, 2048, 8192, 16384], help="H")
    add("--steps", type=count, default=128, help="T: 128")
    add("--rows", type=count, default=32, help="B/n, sequences of a device: 32")
    add("--devices", type=command.at_least(2), default=8, help="n: 8")
    add("--flops", type=speed, default=50e12, help="operations per second: 50e12")
    add("--memory", type=speed, default=2e12, help="bytes per second: 2e12")
    add("--link", type=speed, default=100e9, help="bytes per second: 100e9")
    add("--latency", type=command.at_least(0, float), default=1e-5, help="1e-5 s")
    given = parser.parse_args(argv)
    machine = Machine(given.flops, given.memory, given.link, given.latency)
    shape = given.steps, given.rows, given.devices
    print("\n".join(tables.markdown(*data_parallel(machine, given.units, *shape))))
    print(f"\nT·B/n at break-even: {break_even(machine, given.devices):.0f}\n")
    print("\n".join(tables.markdown(*model_parallel(machine, given.units, *shape[1:]))))
    print(f"\nH at break-even: {least_units(machine, given.devices):.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
