"""The contestants: jaxrnn, JAX's other libraries, plain scans, native libraries."""

from benchmarks.peers import derived, libraries, native, ours, scans

CONTESTANTS = {
    **ours.CONTESTANTS,
    **derived.CONTESTANTS,
    **libraries.CONTESTANTS,
    **scans.CONTESTANTS,
    **native.CONTESTANTS,
}
LONG = {**ours.LONG, **scans.LONG}
