"""A library is imported when its layers are, and not before."""

import subprocess
import sys


def test_the_library_alone_imports_no_other():
    code = "import jaxrnn, jaxrnn.modules, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "jaxrnn" in loaded and not loaded & {"flax", "equinox", "keras"}
