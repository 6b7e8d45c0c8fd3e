"""A command from its first import to its last line, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.runs import checkpoint
from experiments.training import memory

ROOT = Path(__file__).parents[2]
RECALL = str(ROOT / "configs" / "recall" / "gru.toml")
SMALL = ["--quick", "--set", "model.hidden_size=4", "--set", "optimizer.batch_size=4"]


# What comes before a command, in its process: `preexec_fn` would fork this one, in
# which JAX has threads. SIGINT may be ignored here, as in the background of a script.
LAUNCH = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
{}
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(folder, *arguments, more=(), before="", variables=None, **streams):
    """Starts `python -m experiments.run`, with more folders of packages in front."""
    path = os.pathsep.join(map(str, (*more, ROOT)))
    variables = {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | (variables or {})
    command = ["-m", "experiments.run", *arguments]
    return subprocess.Popen(
        [sys.executable, "-S", "-c", LAUNCH.format(before), *command],
        cwd=folder, env=os.environ | variables, text=True, errors="replace", **streams,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.mark.parametrize("package", ["msgspec", "jax", "rich"])
def test_ctrl_c_while_modules_are_imported(tmp_path, package):
    """The first line of the package is where it comes."""
    stub = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / f"{package}.py").write_text(stub)
    process = start(tmp_path, RECALL, *SMALL, more=[tmp_path], **PIPES)
    assert finish(process) == (-signal.SIGINT, "", "")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("package", ["msgspec", "jax"])
def test_a_package_that_is_missing(tmp_path, package):
    stub = f"raise ModuleNotFoundError(name={package!r})"
    (tmp_path / f"{package}.py").write_text(stub)
    process = start(tmp_path, RECALL, *SMALL, more=[tmp_path], **PIPES)
    code, out, err = finish(process)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: the package `{package}` is missing")
    assert "pip install -e '.[experiments]'" in err
    assert err.count("\n") == 1


def test_a_platform_without_a_device(tmp_path):
    variables = {"JAX_PLATFORMS": "nonsense"}
    process = start(tmp_path, "check", RECALL, variables=variables, **PIPES)
    code, out, err = finish(process)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "JAX finds no device" in err and "JAX_PLATFORMS" in err


def test_a_run_without_streams_in_a_folder_of_any_name(tmp_path):
    """They are closed: nothing opens in their place, where libraries print."""
    folder = tmp_path / "v[2] \\ $x$"
    folder.mkdir()

    process = start(folder, RECALL, *SMALL, before="os.closerange(0, 3)")
    results, streams = [], set()
    while process.poll() is None and not results:
        time.sleep(0.05)
        results = [*folder.glob("runs/*/curves.png")]
        if not streams and [*folder.glob("runs/*/metrics.jsonl")]:
            links = (f"/proc/{process.pid}/fd/{number}" for number in range(3))
            streams = {os.readlink(link) for link in links}
    assert process.wait(timeout=5) == 0
    assert streams == {os.devnull}
    (run,) = (folder / "runs").iterdir()
    assert (run / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("output", ["/dev/full", "| head -1"])
def test_standard_output_that_vanishes(tmp_path, output):
    reader = subprocess.PIPE if output[0] == "|" else open(output, "w")
    process = start(tmp_path, RECALL, *SMALL, stdout=reader, stderr=subprocess.PIPE)
    if process.stdout:
        process.stdout.close()
    else:
        reader.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "results.json").exists()


@pytest.mark.slow
def test_the_process_has_gone_within_5_seconds_of_its_last_line(tmp_path):
    process = start(tmp_path, RECALL, *SMALL, **PIPES)
    *_, last = process.stdout
    began = time.monotonic()
    assert process.wait(timeout=60) == 0 and "All files are in" in last
    assert time.monotonic() - began < 5
    process.communicate()


@pytest.mark.slow
def test_a_limit_on_files(tmp_path):
    """As `ulimit -f 4`: no checkpoint fits, and the third that fails ends the run."""
    pairs = "evaluations=4", "optimizer.steps=8", "optimizer.batch_size=4"
    arguments = [RECALL, *(word for pair in pairs for word in ("--set", pair))]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    process = start(tmp_path, *arguments, before=limit, **PIPES)
    code, _, err = finish(process)
    assert code == 1 and "could not be saved: File too large. It was try 3 of 3" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_limit_on_memory(tmp_path):
    """As `ulimit -v`: JAX starts, and 4 KiB are left."""
    size = memory.ADDRESSES + 4096
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({size}, {size}))"
    code, out, err = finish(start(tmp_path, RECALL, *SMALL, before=limit, **PIPES))
    assert (code, out) == (2, "")
    assert err.startswith("error: training needs at least") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_ENABLE_X64": "1"},
        {"JAX_DEBUG_NANS": "1"},
        {"JAX_DISABLE_JIT": "1", "JAX_NUM_CPU_DEVICES": "1"},
        {"PYTHONOPTIMIZE": "1"},
        {"TERM": "dumb", "COLUMNS": "10"},
        {"COLUMNS": "abc"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_unusual_surroundings(tmp_path, variables):
    process = start(tmp_path, RECALL, *SMALL, variables=variables, **PIPES)
    code, _, err = finish(process)
    assert code == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_a_process(tmp_path, number):
    """It saves the step in hand, and exits with 75."""
    long = [*SMALL, "--set", "optimizer.steps=1000000"]
    process = start(tmp_path, RECALL, *long, **PIPES)
    while not [*tmp_path.glob("runs/*/checkpoints/0/manifest.json")]:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(number)
    code, _, err = finish(process)
    stopped = re.match(rf"error: stopped by {number.name} after step (\d+) of", err)
    assert code == 75 and stopped
    (run,) = (tmp_path / "runs").iterdir()
    assert checkpoint.last_step(run) == int(stopped[1])
