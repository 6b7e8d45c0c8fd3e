"""Runs on several devices, and with several processes, end as on one device."""

import json
import pickle
import signal
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import run
from experiments.config.load import ConfigError, load_config
from experiments.runs import checkpoint
from experiments.tasks import Config
from experiments.training import processes
from tests.experiments.conftest import TINY_LANGUAGE, settings
from tests.processes import end, held_port, start

SHAKESPEARE = "configs/shakespeare/shakespeare_lstm.toml"
STEPS, BATCH = 6, 8
# The state is carried, and starts anew after five steps. Metrics after every step.
KEYS = *TINY_LANGUAGE, f"optimizer.steps={STEPS}", f"evaluations={STEPS}"
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
TIMEOUT = 240  # seconds: a run takes ten alone, several times that beside other tests

# A run, of which the batches are left as this process's devices got them.
#     python -c WORKER BATCHES WHAT ARGUMENTS
WORKER = """
import importlib.metadata, os, pickle, sys, time
from pathlib import Path
import numpy as np
from experiments import run
from experiments.runs import checkpoint
from experiments.training import loop, processes, progress

left, what, seen = Path(sys.argv[1]), sys.argv[2], []
placed = progress.Trainer._placed

def part(a):
    shards = getattr(a, "addressable_shards", None)
    return np.concatenate([s.data for s in shards], axis=1) if shards else a

def recorded(self, number):
    if what == "slow" and number > 1:
        time.sleep(1.5)  # a signal takes a second to arrive, and may take longer
    if what == "fails" and number == 2:
        raise OSError("the disk is gone")
    fresh, batch = placed(self, number)
    seen.append((number, [np.asarray(part(a)) for a in batch]))
    return fresh, batch

progress.Trainer._placed = recorded
if what == "version":
    version = importlib.metadata.version
    importlib.metadata.version = lambda n: "0.0" if n == "jaxlib" else version(n)
if what == "slow":
    processes.SILENCE = 6
if what == "full":
    def full(*arguments):
        raise OSError(28, "No space left on device")
    checkpoint.save = full
if what.startswith("stop"):
    asked = iter(range(10**6))
    class Signals:
        def __enter__(self):
            return lambda: "SIGTERM" if next(asked) == int(what[4:]) else ""
        def __exit__(self, *_):
            pass
    loop.interrupts = Signals
code = run.main(sys.argv[3:])
left.write_bytes(pickle.dumps(seen))
sys.exit(code)
"""


class Started:
    """Processes that train together, each with some devices."""

    def __init__(self, folder, arguments, count=1, devices=1, what="", own=None):
        """`own` is what the last process does, or is given, unlike the others."""
        self.folder, self.stack = folder, held_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"log-{rank}" for rank in range(count)]
        port, self.processes = self.stack.__enter__(), []
        for rank, log in enumerate(self.logs):
            is_last = rank == count - 1
            does, given = own if own and is_last else (what, [])
            script = "-c", WORKER, folder / f"batches-{rank}", does
            address = f"127.0.0.1:{port}"
            join = "--coordinator", address, "--process", rank, "--processes", count
            join = join if count > 1 else ()
            environment = {
                "JAX_NUM_CPU_DEVICES": str(devices),
                "JAX_COORDINATOR_BIND_ADDRESS": address,
                "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                "XLA_FLAGS": QUICK_TO_COMPILE,
            }
            words = *script, *arguments, *given, *join
            self.processes.append(start(words, log, environment))

    def codes(self):
        """The exit codes, once all have ended."""
        deadline = time.monotonic() + TIMEOUT
        try:
            for process in self.processes:
                process.wait(max(1, deadline - time.monotonic()))
        finally:
            end(self.processes)
            self.stack.__exit__(None, None, None)
        return [process.returncode for process in self.processes]

    def words(self):
        """What each of them printed."""
        return [log.read_text(errors="replace") for log in self.logs]

    def ends_well(self):
        codes = self.codes()
        assert set(codes) == {0}, (codes, *self.words())

    def batches(self):
        """Those of each process."""
        files = [self.folder / f"batches-{rank}" for rank in range(len(self.logs))]
        return [pickle.loads(file.read_bytes()) for file in files]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Trains on text in which no two windows are alike."""
    text = np.random.default_rng(0).choice(list("abcdefgh"), 1000)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(text))
    return [SHAKESPEARE, *settings(*KEYS, f"data.path={path}")]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, command):
    """The run to which all others are compared."""
    root = tmp_path_factory.mktemp("one")
    started = Started(root / "logs", [*command, "--runs", root / "runs"])
    started.ends_well()
    return started, folder_in(root)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, command):
    root = tmp_path_factory.mktemp("two")
    started = Started(root / "logs", [*command, "--runs", root / "runs"], count=2)
    started.ends_well()
    return started, folder_in(root)


def folder_in(root):
    (folder,) = (root / "runs").iterdir()
    return folder


def metrics(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_same(folder, expected):
    """The same metrics, by rounding: sums over devices are added in another order."""
    got, wanted = metrics(folder), metrics(expected)
    assert [line.keys() for line in got] == [line.keys() for line in wanted]
    assert sum("loss" in line for line in got) == STEPS
    for line, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(
            [*line.values()], [*other.values()], rtol=1e-5, err_msg=str(line)
        )


def assert_in_order(command, started, first=0, last=STEPS):
    """Every process has its sequences of each batch, in the order of the numbers."""
    config = load_config(Config, command[0], command[2::2])
    task, parts = config.make(lambda words: None), started.batches()
    width = BATCH // len(parts)
    for rank, part in enumerate(parts):
        rows = slice(rank * width, (rank + 1) * width)
        assert [number for number, _ in part][: last - first] == [*range(first, last)]
        for number, arrays in part:
            _, batch = task.batch(number)
            for got, whole in zip(arrays, batch, strict=True):
                np.testing.assert_array_equal(got, whole[:, rows])


def left(folder):
    """What must be equal, to the bit: parameters, optimizer, state, metrics."""
    last = folder / "checkpoints" / str(STEPS)
    arrays = {p.name: p.read_bytes() for p in last.glob("*.safetensors")}
    return arrays, (folder / "metrics.jsonl").read_bytes()


def test_one_host_of_several_devices(tmp_path, command, one_device):
    runs = {}
    for count in (2, 4):
        root = tmp_path / str(count)
        arguments = [*command, "--runs", root / "runs"]
        runs[count] = Started(root / "logs", arguments, devices=count)
    assert_in_order(command, one_device[0])
    for count, started in runs.items():
        started.ends_well()
        folder = folder_in(tmp_path / str(count))
        (entry,) = json.loads((folder / "provenance.json").read_text())
        assert entry["machine"]["devices"] == count
        assert_same(folder, one_device[1])
        assert_in_order(command, started)


def test_two_processes(command, one_device, two_processes):
    """The first alone writes, and speaks."""
    started, folder = two_processes
    assert_same(folder, one_device[1])
    assert_in_order(command, started)
    (entry,) = json.loads((folder / "provenance.json").read_text())
    assert entry["machine"]["processes"] == entry["machine"]["devices"] == 2
    first, second = started.words()
    assert "valid_bits" in first and "valid_bits" not in second
    state = load_file(folder / "checkpoints" / str(STEPS) / "state.safetensors")
    assert {len(a) for a in state.values()} == {BATCH}


def test_a_run_goes_on_with_another_number_of_processes(tmp_path, command, one_device):
    """Two processes, then one, then four."""
    arguments = [*command, "--runs", tmp_path / "runs", "--resume", "auto"]
    for count, what, code in ((2, "stop2", 75), (1, "stop2", 75), (4, "", 0)):
        logs = tmp_path / f"logs-{count}"
        started = Started(logs, arguments, count, what=what)
        assert started.codes() == [code] * count, started.words()
    folder = folder_in(tmp_path)
    assert_in_order(command, started, 4)
    assert_same(folder, one_device[1])
    entries = json.loads((folder / "provenance.json").read_text())
    assert [entry["machine"]["processes"] for entry in entries] == [2, 1, 4]
    (note,) = [x for x in started.words()[0].splitlines() if x.startswith("note:")]
    assert "`machine.processes` was 1 and is 4" in note


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (
            ("version", settings("seed=1")),
            "`seed` is 0 in process 0 and 1 in process 1, `version.jaxlib` is ",
        ),
        (("", ["--set", "data.path=OTHER"]), "`data.sha256` is '"),
    ],
    ids=["config and version", "data"],
)
def test_processes_that_differ(tmp_path, command, own, found):
    """They find it before a folder is made."""
    other = tmp_path / "other.txt"
    other.write_text("abcdefgh" * 125)
    does, given = own
    given = [word.replace("OTHER", str(other)) for word in given]
    arguments = [*command, "--runs", tmp_path / "runs"]
    started = Started(tmp_path / "logs", arguments, 2, own=(does, given))
    assert started.codes() == [2, 2], started.words()
    for words in started.words():
        assert "error: the processes must run the same, but " in words
        assert found in words and "Traceback" not in words
    assert not (tmp_path / "runs").exists()


def wait_for(started, folder_of, step):
    """Waits until a step has been logged."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert all(p.poll() is None for p in started.processes), started.words()
        found = [*folder_of.glob("runs/*/metrics.jsonl")]
        if found and any(line["step"] >= step for line in metrics(found[0].parent)):
            return
        time.sleep(0.05)
    pytest.fail(f"no step {step}: {started.words()}")


@pytest.mark.parametrize(
    ("number", "ranks"),
    [
        (signal.SIGTERM, [1]),
        pytest.param(signal.SIGTERM, [0, 1], marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, [0], marks=pytest.mark.slow),
    ],
)
def test_a_signal(tmp_path, command, two_processes, number, ranks):
    """All save at the same step. With as many processes, the run goes on to the bit."""
    arguments = [*command, "--runs", tmp_path / "runs", "--resume", "auto"]
    started = Started(tmp_path / "logs", arguments, 2, what="slow")
    wait_for(started, tmp_path, 1)
    for rank in ranks:
        started.processes[rank].send_signal(number)
    assert started.codes() == [75, 75], started.words()
    folder = folder_in(tmp_path)
    step = checkpoint.last_step(folder)
    assert 1 <= step < STEPS
    for words in started.words():
        assert f"after step {step} of {STEPS}" in words
    Started(tmp_path / "again", arguments, 2).ends_well()
    assert left(folder) == left(two_processes[1])


@pytest.mark.parametrize(
    ("number", "rank"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_ends_all(tmp_path, command, two_processes, number, rank):
    """Within seconds, and the run goes on."""
    arguments = [*command, "--runs", tmp_path / "runs", "--resume", "auto"]
    started = Started(tmp_path / "logs", arguments, 2, what="slow")
    wait_for(started, tmp_path, 1)
    began = time.monotonic()
    started.processes[rank].send_signal(number)
    other = 1 - rank
    try:
        assert started.processes[other].wait(60) != 0
    finally:
        started.processes[rank].kill()
    assert time.monotonic() - began < 30
    started.codes()
    words = started.words()[other]
    assert "has failed, and the others end with it" in words or "task died" in words
    Started(tmp_path / "again", arguments, 2).ends_well()
    assert left(folder_in(tmp_path)) == left(two_processes[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("all_do", "own", "words"),
    [
        ("", ("fails", []), "the disk is gone"),
        ("full", None, "could not be saved: No space left on device. It was try 3"),
        ("", ("", settings("data.path=/nowhere/at/all")), "/nowhere/at/all"),
    ],
    ids=["a batch", "saves", "data of one process"],
)
def test_an_error_ends_all(tmp_path, command, all_do, own, words):
    arguments = [*command, "--runs", tmp_path / "runs"]
    started = Started(tmp_path / "logs", arguments, 2, what=all_do, own=own)
    codes = started.codes()
    assert all(codes), started.words()
    assert codes[1] == 1 and words in started.words()[1]
    assert not any("Traceback" in printed for printed in started.words())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "words"),
    [("stop", "step 1: the update"), ("rollback", "with batch 2. 2 were left out")],
)
def test_steps_that_are_not_finite(tmp_path, command, policy, words):
    """All processes find it, and do the same."""
    wild = "optimizer.learning_rate=1e38", "optimizer.warmup=0.0"
    limit = f"on_nonfinite={policy}", "nonfinite_limit=2"
    arguments = [*command, *settings(*wild, *limit), "--runs", tmp_path / "runs"]
    started = Started(tmp_path / "logs", arguments, 2)
    assert started.codes() == [3, 3], started.words()
    assert all(words in printed for printed in started.words())
    assert checkpoint.steps(folder_in(tmp_path)) == [0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--process", "0"], "`--coordinator` must be HOST:PORT or auto, but got None"),
        (["--coordinator", "here"], "must be HOST:PORT or auto, but got here"),
        (["--coordinator", "here:1", "--process", "0"], "but got 0 and None"),
        (
            ["--coordinator", "here:1", "--process", "2", "--processes", "2"],
            "with 0 ≤ process < processes, but got 2 and 2",
        ),
        (["--coordinator", "auto", "--process", "0"], "Leave `--process` and"),
    ],
)
def test_options_that_do_not_fit(capsys, command, options, words):
    assert run.main([*command, *options]) == 2
    assert words in capsys.readouterr().err


def test_a_batch_that_cannot_be_split(monkeypatch):
    processes.check_batch(3)  # a single process uses fewer devices
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    processes.check_batch(8)
    with pytest.raises(ConfigError, match=r"must be a multiple of 4.*2 processes"):
        processes.check_batch(6)


def test_no_cluster_is_an_error(tmp_path, command):
    script = "-c", WORKER, tmp_path / "batches", "", *command, "--coordinator", "auto"
    process = start(script, tmp_path / "log")
    assert process.wait(TIMEOUT) == 2
    assert "error: the processes cannot be connected" in (tmp_path / "log").read_text()
