"""Configs are strict: every fault is found by name, before JAX is imported."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from experiments.config.load import ConfigError, dump_config, load_config


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str = ""
    held_out: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1


class Train(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: Annotated[int, msgspec.Meta(ge=1, description="optimizer steps")]
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    clip: float | None = None
    resume: bool = False
    warmup: int = 0

    def __post_init__(self):
        if self.warmup > self.steps:
            raise ValueError("`warmup` must not exceed `steps`")


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: Annotated[int, msgspec.Meta(ge=1)]


class LanguageModel(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="task",
    tag="language_model",
):
    train: Train
    data: Data = Data()
    cell: Literal["elman", "gru", "lstm"] = "lstm"
    layers: Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1)] = (Layer(8),)
    weights: dict[str, float] = {}


class Classify(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    tag_field="task",
    tag="classify",
):
    train: Train
    reader: Data | None = None


ROOT = Path(__file__).parents[3]
TASKS = LanguageModel | Classify
VALID = 'task = "language_model"\n[train]\nsteps = 100\n'


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "config.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(path: Path, *overrides: str):
    return load_config(TASKS, path, overrides)


def test_values_of_the_file_stand_and_defaults_fill_the_rest(write):
    path = write(
        VALID + "learning_rate = 1\n[[layers]]\nsize = 3\n[[layers]]\nsize = 4\n"
    )
    expected = LanguageModel(Train(100, learning_rate=1.0), layers=(Layer(3), Layer(4)))
    loaded = load(path)
    assert loaded == expected
    assert type(loaded.train.learning_rate) is float, "an int may stand for a float"


def test_the_tag_chooses_the_struct(write):
    path = write(VALID)
    assert isinstance(load(path), LanguageModel)
    assert isinstance(load(path, "task=classify"), Classify)
    assert isinstance(load_config(Classify, write("train.steps = 1")), Classify)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.steps=7", LanguageModel(Train(7))),
        (" train . steps =7", LanguageModel(Train(7))),
        ("train={steps = 3, resume = true}", LanguageModel(Train(3, resume=True))),
        ("train.learning_rate=1e-4", LanguageModel(Train(100, 1e-4))),
        ("cell=gru", LanguageModel(Train(100), cell="gru")),
        ("cell='gru'", LanguageModel(Train(100), cell="gru")),
        ("data.path=/x/y.txt", LanguageModel(Train(100), Data("/x/y.txt"))),
        ("data.path=a=b", LanguageModel(Train(100), Data("a=b"))),
        ("data.path='42'", LanguageModel(Train(100), Data("42"))),
        ("data.path=", LanguageModel(Train(100), Data(""))),
        ("data.path=1\nb=2", LanguageModel(Train(100), Data("1\nb=2"))),
        ("layers=[{size = 2}]", LanguageModel(Train(100), layers=(Layer(2),))),
        ("weights.x=2", LanguageModel(Train(100), weights={"x": 2.0})),
    ],
)
def test_an_override_is_toml_and_else_a_string(write, override, expected):
    assert load(write(VALID), override) == expected


def test_later_overrides_win(write):
    assert load(write(VALID), "train.steps=1", "train.steps=2").train.steps == 2


@pytest.mark.parametrize(
    "override, message",
    [
        # Unknown names, each with the nearest known one.
        ("stesp=3", "unknown key `stesp`"),
        ("train.stesp=3", r"unknown key `train.stesp`.*did you mean `steps`\?"),
        ("trian.steps=3", r"unknown key `trian`.*did you mean `train`\?"),
        (
            "layers=[{size = 1}, {sise = 2}]",
            r"`layers\[1\].sise`.*did you mean `size`\?",
        ),
        (
            "task=clasify",
            r"`task` must be one of `language_model`, `classify`.*mean `classify`\?",
        ),
        ("task=[1]", r"`task` must be one of .*, but got \[1\]"),
        (
            "cell=gruu",
            "`cell` must be one of `elman`, `gru`, `lstm`.*`gru`.*but got 'gruu'",
        ),
        # Types: an int for a float is the only conversion.
        ("train.steps=2.0", "`train.steps` must be `int`, but got 2.0"),
        ("train.steps=true", "`train.steps` must be `int`, but got True"),
        ("train.steps=many", "`train.steps` must be `int`, but got 'many'"),
        (
            "train.learning_rate=true",
            "`train.learning_rate` must be `float`, but got True",
        ),
        (
            "train.learning_rate='1'",
            "`train.learning_rate` must be `float`, but got '1'",
        ),
        ("train.resume=1", "`train.resume` must be `bool`, but got 1"),
        ("train.clip=x", r"`train.clip` must be `float \| null`, but got 'x'"),
        ("data.path=42", "`data.path` must be `str`, but got 42"),
        ("train=3", "`train` must be a table, but got 3"),
        ("layers=3", "`layers` must be a list, but got 3"),
        ("layers=[{size = 1}, 2]", r"`layers\[1\]` must be a table, but got 2"),
        ("weights.x=y", "Expected `float`, got `str`"),
        # Ranges.
        ("train.steps=0", "`train.steps` must be `int` >= 1, but got 0"),
        ("data.held_out=1", "`data.held_out` must be `float` < 1.0, but got 1"),
        ("layers=[{size = 0}]", r"`layers\[0\].size` must be `int` >= 1, but got 0"),
        ("layers=[]", r"`layers` must be a list of length >= 1, but got \[\]"),
        ("train.warmup=101", "`train`: `warmup` must not exceed `steps`"),
        (
            "train.learning_rate=nan",
            "`train.learning_rate` must be a finite number, but got nan",
        ),
        ("train.learning_rate=-inf", "`train.learning_rate` must be a finite number"),
        ("train.clip=inf", "`train.clip` must be a finite number, but got inf"),
        ("weights={a = [1.0, nan]}", r"`weights.a\[1\]` must be a finite number"),
        pytest.param(
            f"train.clip=1{400 * '0'}", "out of range", id="no float is that large"
        ),
        # Numbers and texts that nothing can hold.
        pytest.param(
            "train.steps=" + 5000 * "9", "`train.steps` must be `int`", id="digits"
        ),
        ("data.path=\udcff", "`data.path` must be UTF-8 text, but got '.udcff'"),
        # No overrides.
        ("foo", "an override must read `key=value`, but got `foo`"),
        ("=3", "an override must read `key=value`"),
        ("train..steps=3", "an override must read `key=value`"),
        (
            "task.name=3",
            "`task.name` cannot be set: `task` is 'language_model', not a table",
        ),
    ],
)
def test_a_wrong_override_is_refused(write, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(write(VALID), override)
    assert f"--set {override[:100]}" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text, message",
    [
        (
            VALID.replace("steps", "stesp"),
            r"unknown key `train.stesp`.*did you mean `steps`\?",
        ),
        (VALID.replace("steps", "warmup"), "`train.steps` is missing"),
        ('task = "classify"', "`train` is missing"),
        (
            "train.steps = 3",
            "`task` is missing: must be one of `language_model`, `classify`",
        ),
        (
            'task = "classify"\ntrain.steps = 1\nreader.pth = ""',
            r"`reader.pth`.*mean `path`\?",
        ),
        (VALID + "learning_rate = nan", "must be a finite number"),
        ("a = 1\nb = \n", "is not TOML: .*line 2"),
        ("a = 1\na = 2", "is not TOML: .*line 2, the end of the file"),
    ],
)
def test_a_wrong_file_is_refused(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path, write):
    with pytest.raises(ConfigError, match=r"cannot read the config .*nothing\.toml"):
        load(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="cannot read the config"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(ConfigError, match="cannot read the config"):
        load(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match=r"is not JSON: .*line 2"):
        load(write('{"task":\n}', "config.json"))
    with pytest.raises(ConfigError, match="must hold a table, but got 3"):
        load(write("3", "config.json"))


def test_a_single_struct_refuses_a_foreign_tag(write):
    with pytest.raises(ConfigError, match="`task` must be one of `classify`"):
        load_config(Classify, write(VALID))


def test_a_dumped_config_loads_back(write):
    loaded = load(write(VALID), "train.clip=0.25", "cell=gru", "layers=[{size = 2}]")
    again = load(write(dump_config(loaded), "config.json"))
    assert again == loaded
    with pytest.raises(ConfigError, match=r"`train\.clip` must be a finite number"):
        dump_config(LanguageModel(Train(1, clip=float("inf"))))


def test_a_byte_order_mark_is_skipped(write):
    """Windows' editors write one."""
    assert load(write("\ufeff" + VALID)) == LanguageModel(Train(100))


def test_a_file_of_absurd_depth_or_numbers_is_refused(write):
    with pytest.raises(ConfigError, match="is not TOML: it is nested too deeply"):
        load(write("a = " + 5000 * "["))
    with pytest.raises(ConfigError, match="is not TOML: Exceeds the limit"):
        load(write("a = " + 5000 * "9"))
    with pytest.raises(ConfigError, match="is not JSON: it is nested too deeply"):
        load(write(100_000 * "[", "config.json"))


def test_configs_of_all_tasks_are_read_without_jax():
    code = """
import sys
from pathlib import Path
from experiments.config.load import load_config
from experiments.tasks import Config
for path in Path("configs").rglob("*.toml"):
    load_config(Config, path)
sys.exit("jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
