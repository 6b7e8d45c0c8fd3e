"""A run that is stopped after any step, and goes on, ends as one that never was."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import run
from experiments.runs import checkpoint
from tests.experiments.conftest import TINY_LANGUAGE, settings, stop_after

ROOT = Path(__file__).parents[2]
SHAKESPEARE = "configs/shakespeare/shakespeare_lstm.toml"
STEPS = 8
LANGUAGE = [SHAKESPEARE, *settings(*TINY_LANGUAGE, f"optimizer.steps={STEPS}")]
# Eight steps of a text of 1,400 characters are two passes: the state starts anew.
LANGUAGE += settings("optimizer.batch_size=20", "model.dropout=0.1")
CLASSIFIER = ["configs/classical/temporal_order_gru.toml"]
CLASSIFIER += settings("model.hidden_size=8", "optimizer.batch_size=8")
CLASSIFIER += settings(f"optimizer.steps={STEPS}", "evaluations=3")
# A rule that draws, whose trace is carried from batch to batch.
ONLINE = ["configs/online/dependencies.toml", *settings("rule=uoro", "every=2")]
ONLINE += settings("model.hidden_size=4", "optimizer.batch_size=4", "evaluations=3")
ONLINE += settings(f"optimizer.steps={STEPS}", "first=2", "second=3")
CASES = {"language": LANGUAGE, "classifier": CLASSIFIER, "online": ONLINE}


def commands(name, text, root):
    data = settings(f"data.path={text}") if name == "language" else []
    return [*CASES[name], *data, "--runs", str(root)]


def left(folder):
    """What must be equal, to the bit: parameters, optimizer, state, metrics."""
    last = folder / "checkpoints" / str(STEPS)
    arrays = {p.name: p.read_bytes() for p in last.glob("*.safetensors")}
    return arrays, (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory, text):
    found = {}
    for name in CASES:
        root = tmp_path_factory.mktemp(name)
        assert run.main(commands(name, text, root)) == 0
        (folder,) = root.iterdir()
        found[name] = left(folder)
    return found


@pytest.mark.parametrize("name", CASES)
def test_stopped_after_any_step(tmp_path, monkeypatch, text, never_stopped, name):
    """And after every step: the last one is stopped before each of its steps."""
    for step in range(STEPS):
        root = tmp_path / str(step)
        stop_after(monkeypatch, step)
        assert run.main(commands(name, text, root)) == 75
        (folder,) = root.iterdir()
        assert checkpoint.last_step(folder) == step
        assert (
            "stopped by SIGTERM"
            in json.loads((folder / "failed.json").read_text())["error"]
        )
        stop_after(monkeypatch, -1)
        assert run.main([*commands(name, text, root), "--resume", "auto"]) == 0
        assert [*root.iterdir()] == [folder] and not (folder / "failed.json").exists()
        assert left(folder) == never_stopped[name], step

    root = tmp_path / "often"
    for _ in range(STEPS):
        stop_after(monkeypatch, 1)
        code = run.main([*commands(name, text, root), "--resume", "auto"])
    (folder,) = root.iterdir()
    assert code == 0 and left(folder) == never_stopped[name]


@pytest.fixture
def stopped(tmp_path, monkeypatch, text):
    """A run that was stopped after three steps, and its command."""
    stop_after(monkeypatch, 3)
    command = commands("language", text, tmp_path / "runs")
    assert run.main(command) == 75
    stop_after(monkeypatch, -1)
    (folder,) = (tmp_path / "runs").iterdir()
    return folder, command


def test_the_newest_checkpoint_that_is_whole_is_gone_on_from(
    stopped, never_stopped, capsys
):
    folder, command = stopped
    assert checkpoint.steps(folder) == [0, 3]
    (folder / "checkpoints" / "3" / "state.safetensors").write_bytes(b"")
    # As a process that is killed leaves them.
    (folder / "checkpoints" / ".4.part").mkdir()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    assert run.main([*command, "--resume", str(folder)]) == 0
    assert "checkpoints/3 is damaged" in capsys.readouterr().err
    assert left(folder) == never_stopped["language"]
    assert not [*(folder / "checkpoints").glob(".*")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.hidden_size=8", "`model.hidden_size` was 16 and is 8"),
        ("optimizer.steps=9", "`optimizer.steps` was 8 and is 9"),
        ("seed=1", "`seed` was 0 and is 1"),
    ],
)
def test_another_config_is_refused_field_by_field(stopped, capsys, change, words):
    folder, command = stopped
    code = run.main([*command, "--set", change, "--resume", "auto"])
    assert code == 2 and words in capsys.readouterr().err
    assert checkpoint.steps(folder) == [0, 3]


def test_other_data_are_refused_and_moved_ones_are_not(stopped, capsys, text, tmp_path):
    folder, command = stopped
    other = tmp_path / "other.txt"
    other.write_text(text.read_text().replace("abcd", "abdc"))
    moved = tmp_path / "moved.txt"
    moved.write_bytes(text.read_bytes())
    change = [*command, "--resume", str(folder), "--set"]
    assert run.main([*change, f"data.path={other}"]) == 2
    assert "the data changed: `sha256` was" in capsys.readouterr().err
    assert run.main([*change, f"data.path={moved}"]) == 0


def test_what_cannot_go_on(stopped, capsys, tmp_path):
    folder, command = stopped
    for asked, words in (
        (tmp_path, "`--resume` must be the folder of a run"),
        (folder, "there is no whole checkpoint"),
    ):
        if asked == folder:
            for path in folder.rglob("params.safetensors"):
                path.write_bytes(b"")
        assert run.main([*command, "--resume", str(asked)]) == 2
        assert words in capsys.readouterr().err
    (folder / "results.json").touch()
    assert run.main([*command, "--resume", str(folder)]) == 2
    assert "has ended" in capsys.readouterr().err


def test_a_folder_without_a_checkpoint_does_not_stand_in_the_way(
    stopped, never_stopped, tmp_path
):
    """Its process was killed as it started. An older run goes on; else one begins."""
    folder, command = stopped
    for name in ("29991231-000000", "29991231-000000-2"):
        killed = folder.parent / f"shakespeare_lstm-{name}"
        killed.mkdir()
        shutil.copy(folder / "config.json", killed)
    assert run.main([*command, "--resume", "auto"]) == 0
    assert left(folder) == never_stopped["language"]
    shutil.rmtree(folder)
    assert run.main([*command, "--resume", "auto"]) == 0
    (new,) = [p.parent for p in (tmp_path / "runs").glob("*/results.json")]
    assert left(new) == never_stopped["language"]


def test_two_runs_in_one_folder(stopped, capsys):
    """The second refuses; the lock of a process that has gone is taken over."""
    folder, command = stopped
    script = (
        "import sys; from pathlib import Path; from experiments.runs.folder "
        "import Run; from experiments.tasks.vowels import Series; "
        "run = Run(Path(sys.argv[1]), Series()); print('taken', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as holds:  # fmt: skip
        assert holds.stdout.readline() == "taken\n"
        assert run.main([*command, "--resume", str(folder)]) == 2
        assert f"process {holds.pid} on " in capsys.readouterr().err
        os.kill(holds.pid, signal.SIGKILL)
    assert run.main([*command, "--resume", str(folder)]) == 0
