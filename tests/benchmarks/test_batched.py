"""Networks side by side: both ways to run them compute the same."""

import chex

from benchmarks import batched
from benchmarks.problem import Shape


def test_both_ways_compute_the_same(capsys):
    found = batched.calls("gru", 3, Shape(5, 2, 3, 4))
    ys, together = found["forward apart"](), found["forward together"]()
    chex.assert_trees_all_close(ys, together, rtol=1e-5, atol=1e-6)
    (apart, dxs), (stacked, dxs_too) = (
        found[f"gradient {name}"]() for name in ("apart", "together")
    )
    chex.assert_trees_all_close(dxs, dxs_too, rtol=1e-4, atol=1e-5)
    for n, params in enumerate(apart):
        own = type(stacked)(*(leaf[n] for leaf in stacked))
        chex.assert_trees_all_close(params, own, rtol=1e-4, atol=1e-5)
    arguments = ["--cell", "gru", "--members", "2", "--points", "5,2,3,4"]
    assert batched.main([*arguments, "--rounds", "2"]) == 0
    assert "5 2 3 4" in capsys.readouterr().out
