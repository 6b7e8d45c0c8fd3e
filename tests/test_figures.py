"""The figures of the pages that scripts in docs/figures draw."""

from pathlib import Path

import numpy as np
import pytest

from docs.figures import states, vanishing


def test_the_drawing_of_a_step_is_that_of_its_script():
    path = Path(states.__file__).with_suffix(".svg")
    assert path.read_text(encoding="utf-8") == states.draw()


@pytest.mark.parametrize("name", vanishing.ACTIVATIONS)
def test_what_is_left_of_a_change(name):
    """The products of slopes are central differences, whose error is about 1e-10."""
    f, _ = vanishing.ACTIVATIONS[name]
    w_m, xs, step = 0.9, np.array([0.4, -0.7, 1.1, 0.2]), 1e-5

    def last(h):
        for x in xs:
            h = f(x + w_m * h)
        return h

    left = (last(step) - last(-step)) / (2 * step)
    np.testing.assert_allclose(vanishing.factors(name, w_m, xs)[-1], left, rtol=1e-6)
