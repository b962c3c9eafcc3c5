"""Configs as JSON values and back, by their annotations."""

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from igpt_jax.errors import UserError
from igpt_jax.jsonfile import read_json


def to_dict(config: Any) -> Any:
    """A config as JSON values; members of unions carry their class name as `kind`."""
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"kind": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [to_dict(item) for item in config]
    return config


def config_kind(path: Path) -> str | None:
    """The class of the config in a file; None where there is none that can be read."""
    with contextlib.suppress(UserError, OSError):
        return read_json(path, "").get("kind")
    return None


def from_dict(kind: type, values: Mapping[str, Any]) -> Any:
    """The config that `to_dict` wrote.

    Raises:
        UserError: a key that the config does not have, or a value of another type.
    """
    return _build(kind, values, kind.__name__)


def _build(annotation: Any, value: Any, where: str) -> Any:
    """Turns a JSON value to what the annotation says."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _build(args[0], value, where)
    if origin in (typing.Union, types.UnionType):
        return _build_union(args, value, where)
    if dataclasses.is_dataclass(annotation):
        return _build_dataclass(annotation, value, where)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{where}: expected one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, got {value!r}")
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is ... else args
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, got {len(value)}")
        return tuple(_build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value)))  # noqa: B905
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if annotation is not Any and (
        not isinstance(value, annotation) or (annotation is int and isinstance(value, bool))
    ):
        raise UserError(f"{where}: expected {annotation.__name__}, got {value!r}")
    return value


def _build_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    kinds = {arg.__name__: arg for arg in args if dataclasses.is_dataclass(arg)}
    if isinstance(value, Mapping) and kinds:
        kind = value.get("kind")
        if kind not in kinds:
            raise UserError(f"{where}.kind: expected one of {', '.join(kinds)}, got {kind!r}")
        return _build_dataclass(kinds[kind], value, where)
    plain = [arg for arg in args if arg is not type(None) and not dataclasses.is_dataclass(arg)]
    if len(plain) != 1:
        raise UserError(f"{where}: expected {' or '.join(kinds) or 'null'}, got {value!r}")
    return _build(plain[0], value, where)


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected {kind.__name__}, got {value!r}")
    hints = get_type_hints(kind, include_extras=True)
    for field_ in dataclasses.fields(kind):
        no_default = field_.default is field_.default_factory is dataclasses.MISSING
        if no_default and field_.name not in value:
            raise UserError(f"{where}.{field_.name}: expected a value, found none")
    names = {f.name for f in dataclasses.fields(kind)}
    for key in value:
        if key != "kind" and key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{where}.{key}: {kind.__name__} has no such key{hint}")
    return kind(**{k: _build(hints[k], v, f"{where}.{k}") for k, v in value.items() if k in names})


def first_difference(left: Mapping[str, Any], right: Mapping[str, Any], where: str = "") -> str:
    """The first key, dotted, at which two config dictionaries differ; '' when they are equal."""
    for key in {**left, **right}:
        a, b = left.get(key), right.get(key)
        name = f"{where}.{key}" if where else key
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if inner := first_difference(a, b, name):
                return inner
        elif a != b:
            return name
    return ""
