"""Find algorithms by name: built in, from entry points of installed packages, or "package.module:Class"."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from mir2bench.errors import ConfigError, unknown_name


def known_names(kind: str, builtin: Mapping[str, str]) -> list[str]:
    """Return the names of all built-in and installed algorithms of a kind.

    Args:
        kind: "defender" or "attacker"; the entry-point group is `mir2bench.<kind>s`.
        builtin: name -> "module:Class".
    """
    return sorted({*builtin, *(entry.name for entry in entry_points(group=f"mir2bench.{kind}s"))})


def find_class(kind: str, name: str, builtin: Mapping[str, str], methods: tuple[str, ...]) -> Any:
    """Return the class that goes by `name`.

    Args:
        kind, builtin: see `known_names`.
        name: a known name or "package.module:Class".
        methods: what the class must have.

    Raises:
        UnknownNameError: no such name; the message suggests close ones.
        ConfigError: the module or class cannot be imported, or lacks a method.
    """
    installed = {entry.name: entry.value for entry in entry_points(group=f"mir2bench.{kind}s")}
    target = builtin.get(name) or installed.get(name, name)
    if ":" not in target:
        raise unknown_name(kind, name, known_names(kind, builtin))
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: `:Class`, `.module:Class`
        raise ConfigError(f"Cannot import the {kind} `{target}`: {error}. Expected `package.module:Class`.") from error
    missing = [m for m in methods if not hasattr(found, m)]
    if missing:
        raise ConfigError(f"`{target}` is no {kind}: it lacks {', '.join(missing)}.")
    return found


def make_config(config: Any, settings: Mapping[str, Any]) -> Any:
    """Build a configuration dataclass from its defaults and `settings`.

    Args:
        config: the dataclass; every field has a default, whose type its setting must have.
        settings: field -> value; a text (from a command line) is converted.

    Raises:
        UnknownNameError: a setting that the dataclass does not have; the message suggests close ones.
        ConfigError: a value of the wrong type or out of range.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    for key in settings:
        if key not in defaults:
            raise unknown_name("setting", key, defaults)
    return config(**{key: _convert(key, value, defaults[key]) for key, value in settings.items()})


def _convert(key: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if kind is bool and str(value).lower() in ("true", "false", "1", "0"):
        return str(value).lower() in ("true", "1")
    try:
        converted = kind(value) if kind is not bool else None
    except (TypeError, ValueError, OverflowError):
        converted = None
    if converted is None or (kind is int and not isinstance(value, str) and converted != value):
        raise ConfigError(f"{key} must be of type {kind.__name__} (default {default!r}), but it is {value!r}.")
    return converted
