"""Recurrent layers of other libraries, run by `unroll`; each is imported when used.

`nnx`, `linen`, `equinox` and `keras` hold layers with their library's own arguments,
parameters and results.
"""
