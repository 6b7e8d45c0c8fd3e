"""Reads configs: a TOML file, typed and strict.

A config is a frozen `msgspec.Struct`. Nested structs are tables, and a union of tagged
structs is a choice that one key of the file makes:

    class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        steps: Annotated[int, msgspec.Meta(ge=1)]
        learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3

    class Adding(msgspec.Struct, frozen=True, forbid_unknown_fields=True,
                 tag_field="task", tag="adding"):
        optimizer: Optimizer

    config = load_config(Adding | Copying, "configs/x.toml", ["optimizer.steps=100"])

Every fault of a config is a `ConfigError`, raised before JAX is imported: a run with a
misspelt key fails in a tenth of a second.
"""

import difflib
import json
import math
import os
import re
import reprlib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
from msgspec import inspect

from experiments import reading
from experiments.screen import shortened

T = TypeVar("T")

# Letters of a key or an override that an error repeats.
_ECHOED = 200


class ConfigError(ValueError):
    """A config that cannot be used. Its words name the key, the rule and the value."""


@overload
def load_config(
    cls: type[T], path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> T: ...
@overload
def load_config(
    cls: Any, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> Any: ...
def load_config(
    cls: Any, path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> Any:
    """Reads a config.

    Args:
      cls: a `msgspec.Struct`, or a union of tagged ones.
      path: a TOML file, or a `.json` file written from `dump_config`.
      overrides: each is `key=value` with a dotted key (`optimizer.steps=100`); later
        ones win. The value is read as TOML where it is TOML (`3`, `true`, `[1, 2]`) and
        is a string otherwise. A string that looks like something else is quoted as in
        TOML: `data.path='"42"'`.

    Returns:
      An instance of `cls`.

    Raises:
      ConfigError: if the file is missing or malformed (with the line); an override is
        not `key=value`; a key is unknown (with the nearest known one) or missing; a
        value has the wrong type (only an int may stand for a float), is out of its
        range, or is not finite.
    """
    path = Path(path)
    table = _read(path)
    settings = (f"--set {shortened(override, _ECHOED)}" for override in overrides)
    source = " ".join([str(path), *settings])
    try:
        for override in overrides:
            _set(table, override)
        _check_values(table, "")
        _check_names(inspect.type_info(cls), table, "")
        return msgspec.convert(table, cls)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {_explain(str(error), table)}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: it is nested too deeply") from None


def dump_config(config: msgspec.Struct) -> str:
    """Returns the whole config, defaults included, as JSON that `load_config` reads.

    JSON, because TOML has no null and the standard library cannot write it.

    Raises:
      ConfigError: if a float is NaN or infinite, which JSON cannot hold.
    """
    _check_values(msgspec.to_builtins(config), "")
    return msgspec.json.format(msgspec.json.encode(config), indent=2).decode() + "\n"


def one_of(got: object, known: Iterable[object]) -> str:
    """Returns "one of `a`, `b`", with the nearest to `got` where one is near."""
    names = [str(name) for name in known]
    nearest = difflib.get_close_matches(str(got), names, n=1)
    hint = f" (did you mean `{nearest[0]}`?)" if nearest else ""
    return "one of " + ", ".join(f"`{name}`" for name in names) + hint


def _read(path: Path) -> dict[str, Any]:
    """Returns the file's table. A byte order mark, as Windows writes it, is skipped."""
    try:
        text = reading.read_bytes(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from None
    form = "JSON" if path.suffix == ".json" else "TOML"
    try:
        table = json.loads(text) if form == "JSON" else tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path} is not {form}: it is nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits
        last = f"at line {len(text.splitlines())}, the end of the file"
        reason = str(error).replace("at end of document", last)
        raise ConfigError(f"{path} is not {form}: {reason}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path} must hold a table, but got {reprlib.repr(table)}")
    return table


def _set(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        got = shortened(override, _ECHOED)
        raise ConfigError(f"an override must read `key=value`, but got `{got}`")
    for depth, name in enumerate(names[:-1], start=1):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            above = ".".join(names[:depth])
            raise ConfigError(
                f"`{shortened(key, _ECHOED)}` cannot be set: "
                f"`{shortened(above, _ECHOED)}` is {reprlib.repr(table)}, not a table"
            )
    table[names[-1]] = _value(text)


def _value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A text of several lines may hold further keys. It was meant as one string.
    return parsed["value"] if len(parsed) == 1 else text


def _check_values(value: object, key: str) -> None:
    """Checks what neither types nor ranges refuse: NaN, infinity, broken text."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"`{key}` must be a finite number, but got {value}")
    if isinstance(value, str) and not _is_utf8(value):
        got = ascii(shortened(value, _ECHOED))
        raise ConfigError(f"`{key}` must be UTF-8 text, but got {got}")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_values(item, _join(key, name))
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_values(item, f"{key}[{i}]")


def _is_utf8(text: str) -> bool:
    # A byte of the command line that is not UTF-8 arrives as a lone surrogate.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _check_names(kind: inspect.Type, value: object, key: str) -> None:
    """Checks every name in `value`: keys, tags, and choices.

    `msgspec.convert` refuses wrong names too, but neither lists the choices nor finds
    the nearest. Types and ranges are left to it, so a `value` of another type passes.
    """
    match kind:
        case inspect.Metadata(type=inner):
            _check_names(inner, value, key)
        case inspect.UnionType(types=members):
            structs = [
                member for member in members if isinstance(member, inspect.StructType)
            ]
            others = [
                m
                for m in members
                if not isinstance(m, inspect.StructType | inspect.NoneType)
            ]
            if structs and isinstance(value, dict):
                _check_table(_tagged(structs, value, key), value, key)
            elif len(others) == 1 and value is not None:
                _check_names(others[0], value, key)
        case inspect.StructType() if isinstance(value, dict):
            _check_table(_tagged([kind], value, key), value, key)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            for i, element in enumerate(value if isinstance(value, list) else ()):
                _check_names(item, element, f"{key}[{i}]")
        case inspect.DictType(value_type=item) if isinstance(value, dict):
            for name, element in value.items():
                _check_names(item, element, _join(key, name))
        case inspect.LiteralType(values=choices) if value not in choices:
            rule = one_of(value, choices)
            raise ConfigError(f"`{key}` must be {rule}, but got {reprlib.repr(value)}")
        case _:
            pass


def _check_table(struct: inspect.StructType, table: dict[str, Any], key: str) -> None:
    fields = {field.encode_name: field for field in struct.fields}
    known = [*fields] if struct.tag_field is None else [struct.tag_field, *fields]
    # Unknown keys before missing ones: a misspelt key is both, and its name is a clue.
    for name in table:
        if name not in known:
            unknown = shortened(_join(key, name), _ECHOED)
            raise ConfigError(f"unknown key `{unknown}`: must be {one_of(name, known)}")
    for name, field in fields.items():
        if name in table:
            _check_names(field.type, table[name], _join(key, name))
        elif field.required:
            raise ConfigError(f"`{_join(key, name)}` is missing and has no default")


def _tagged(
    structs: list[inspect.StructType], table: dict[str, Any], key: str
) -> inspect.StructType:
    """Returns the struct that the table's tag names. A single struct needs no tag."""
    field = structs[0].tag_field
    if len(structs) == 1 and (field is None or field not in table):
        return structs[0]
    assert field is not None, "msgspec refuses a union of untagged structs"
    tags = [struct.tag for struct in structs]
    if field not in table:
        raise ConfigError(
            f"`{_join(key, field)}` is missing: must be {one_of('', tags)}"
        )
    if table[field] not in tags:
        rule = one_of(table[field], tags)
        got = reprlib.repr(table[field])
        raise ConfigError(f"`{_join(key, field)}` must be {rule}, but got {got}")
    return structs[tags.index(table[field])]


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _explain(message: str, table: dict[str, Any]) -> str:
    """Adds the value to msgspec's "Expected `int` >= 1 - at `$.train.steps`"."""
    rule, _, where = message.partition(" - at `$")
    key = where.rstrip("`").removeprefix(".")
    expected = re.fullmatch(r"Expected (.*?)(, got `.*`)?", rule)
    # A struct's own __post_init__; a place inside a dict.
    if not expected or "..." in key:
        return f"`{key}`: {rule}" if key else rule
    value: Any = table
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", key):
        value = value[name] if name else value[int(index)]
    rule = expected[1].replace("`object`", "a table").replace("`array`", "a list")
    return f"`{key}` must be {rule}, but got {reprlib.repr(value)}"
