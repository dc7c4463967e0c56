"""Algorithms by name, and their settings: built in, from entry points of installed packages, or "package.module:Class".

A `Config` holds plain values only (bool, int, float, str), since command lines write them, bundles keep them as JSON
and hashes of studies depend on them.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from typing import Any

from mir2bench.errors import ConfigError, unknown_name
from mir2bench.registration import VariantSpec

PLAIN = (bool, int, float, str)
"""Types that a setting may have."""
CALLS = {
    "train": (("variant",), ("seed", "budget", "callback")),
    "attack": (("variant", "victim", "phi"), ("seed", "budget", "callback")),
    "initial_carry": (("batch",), ()),
    "act": (("obs", "carry", "mask"), ("rng", "deterministic")),
}
"""How the methods of algorithms and policies are called: arguments by position, and by name."""


def known_names(kind: str, builtin: Mapping[str, str]) -> list[str]:
    """Return the names of all built-in and installed algorithms of a kind.

    Args:
        kind: "defender" or "attacker"; the entry-point group is `mir2bench.<kind>s`.
        builtin: name -> "module:Class".
    """
    return sorted({*builtin, *(entry.name for entry in entry_points(group=f"mir2bench.{kind}s"))})


def find_class(kind: str, name: str, builtin: Mapping[str, str], methods: tuple[str, ...]) -> Any:
    """Return the class that goes by `name`.

    An installed package cannot take the name of a built-in: its entry point is ignored with a warning.

    Args:
        kind, builtin: see `known_names`.
        name: a known name or "package.module:Class".
        methods: what the class must have.

    Raises:
        UnknownNameError: no such name; the message suggests close ones.
        ConfigError: two packages offer the name, the class cannot be imported, or it breaks its contract (see
            `class_problems`).
    """
    installed = _offers(kind, name)
    if name in builtin:
        warn_of_clash(kind, name)
        target, where = builtin[name], ""
    elif len(installed) > 1:
        offers = " and ".join(f"{_origin(entry)} (`{entry.value}`)" for entry in installed.values())
        raise ConfigError(f"The {kind} `{name}` is offered twice: by {offers}. Name one as `package.module:Class`.")
    elif installed:
        (entry,) = installed.values()
        target, where = entry.value, f" (`{name}` of {_origin(entry)})"
    elif ":" in name:
        target, where = name, ""
    else:
        raise unknown_name(kind, name, known_names(kind, builtin))
    found = _import_class(kind, target, where)
    problems = list(class_problems(found, methods))
    if problems:
        sentences = " ".join([problems[0], *(p[0].upper() + p[1:] for p in problems[1:])])
        raise ConfigError(f"`{target}`{where} is no {kind}: {sentences}")
    return found


def warn_of_clash(kind: str, name: str) -> None:
    """Warn if an installed package offers an algorithm under the name of a built-in one, which is used instead."""
    for entry in _offers(kind, name).values():
        warnings.warn(
            f"{_origin(entry)} offers the {kind} `{name}`, but that name is built in, and the built-in one is used. "
            f"Name the other as `{entry.value}`.",
            stacklevel=3,
        )


def class_problems(found: Any, methods: tuple[str, ...]) -> Iterator[str]:
    """Say in whole sentences what keeps an object from being an algorithm's class.

    Args:
        found: what was named.
        methods: attributes it must have; "Config" must be a dataclass of plain values wherever there is one.
    """
    if not inspect.isclass(found):
        yield f"it is no class, but {_shown(found)}."
        return
    missing = [_call(name) if name in CALLS else f"`{name}`" for name in methods if not hasattr(found, name)]
    if missing:
        yield f"it lacks {', '.join(missing)}."
    for name in methods:
        if name in CALLS and hasattr(found, name):
            yield from call_problems(found, name)
    configs: tuple[Any, ...] = ()
    config = getattr(found, "Config", None)
    if config is not None:
        yield from config_problems(config)
        configs = (None,)
    try:
        inspect.signature(found).bind(*configs)
    except TypeError as error:
        wanted = "a Config, as in `def __init__(self, config=None)`" if configs else "no arguments, as it has no Config"
        yield f"its constructor must take {wanted}: {error}."
    except ValueError:  # a signature that Python does not know
        return


def call_problems(owner: Any, name: str) -> Iterator[str]:
    """Say what keeps a method of a class or object from being called as `CALLS` has it."""
    positional, keywords = CALLS[name]
    method = getattr(owner, name)
    if not callable(method):
        yield f"`{name}` must be a method, but it is {_shown(method)}."
        return
    # Of a class, a plain function still wants its `self`.
    own = (None,) if inspect.isclass(owner) and inspect.isfunction(inspect.getattr_static(owner, name)) else ()
    try:
        inspect.signature(method).bind(*own, *positional, **dict.fromkeys(keywords))
    except TypeError as error:
        yield f"it is called as {_call(name)}, but the signature of `{name}` does not allow that: {error}."
    except ValueError:
        return


def _call(name: str) -> str:
    positional, keywords = CALLS[name]
    return f"`{name}({', '.join([*positional, *(f'{key}=...' for key in keywords)])})`"


def config_problems(config: Any) -> Iterator[str]:
    """Say what keeps a `Config` from serving: no dataclass, or a field without a plain default."""
    if not inspect.isclass(config) or not dataclasses.is_dataclass(config):
        yield f"its Config must be a dataclass, but it is {_shown(config)}. Write `@dataclass(frozen=True)` above it."
        return
    for field in dataclasses.fields(config):
        default = _default(field)
        if default is dataclasses.MISSING:
            yield f"Config.{field.name} has no default value. Give it one."
        elif not field.init:
            yield f"Config.{field.name} cannot be set: leave `init=False` out."
        elif type(default) not in PLAIN:
            yield (
                f"Config.{field.name} has the default {default!r} of type {type(default).__name__}, but settings are "
                "plain values: bool, int, float or str."
            )
        elif isinstance(default, float) and not math.isfinite(default):
            yield f"Config.{field.name} has the default {default!r}, which JSON cannot hold. Give a finite number."


def make_config(config: Any, settings: Mapping[str, Any]) -> Any:
    """Build a configuration dataclass from its defaults and `settings`.

    Args:
        config: the dataclass; every field has a plain default, whose type its setting must have.
        settings: field -> value; a text (from a command line) is converted.

    Raises:
        UnknownNameError: a setting that the dataclass does not have; the message suggests close ones.
        ConfigError: a value of the wrong type or out of range.
    """
    defaults = {field.name: _default(field) for field in dataclasses.fields(config)}
    for key in settings:
        if key not in defaults:
            raise unknown_name("setting", key, defaults)
    return config(**{key: _convert(key, value, defaults[key]) for key, value in settings.items()})


def recommended(name: str, config: Any, variant: VariantSpec, *, shared: bool) -> dict[str, Any]:
    """Return what a variant recommends for an algorithm, field -> value.

    Args:
        name: the algorithm's name.
        config: its configuration dataclass.
        variant: see `VariantSpec.settings`.
        shared: whether the settings for every defender are meant as well, those of them that the dataclass has.
    """
    known = {field.name for field in dataclasses.fields(config)}
    plain = {k: v for k, v in variant.settings.items() if shared and k in known and not isinstance(v, Mapping)}
    return {**plain, **variant.settings.get(name, {})}


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


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _offers(kind: str, name: str) -> dict[str, EntryPoint]:
    """Return what installed packages offer under a name, by "module:Class"."""
    return {entry.value: entry for entry in entry_points(group=f"mir2bench.{kind}s") if entry.name == name}


def _origin(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else "an installed package"


def _shown(value: Any) -> str:
    return f"{value!r} of type {type(value).__name__}" if not inspect.isclass(value) else f"the class {value.__name__}"


def _import_class(kind: str, target: str, where: str) -> Any:
    failed = f"Cannot import the {kind} `{target}`{where}: "
    module, _, attribute = target.partition(":")
    if not module or not attribute or module.startswith("."):
        raise ConfigError(f"{failed}it must have the form `package.module:Class`.")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # What is missing is the named module, a package on the way to it, or something that it needs.
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            hint = "Is its package installed, or the file in the current directory, and named without `.py`?"
        else:
            hint = f"`{module}` needs it: install it as well."
        raise ConfigError(f"{failed}{error}. {hint}") from error
    except Exception as error:  # whatever a module may raise
        raise ConfigError(f"{failed}the module raises {type(error).__name__}: {error}") from error
    try:
        return attrgetter(attribute)(loaded)
    except AttributeError as error:
        classes = [name for name, value in vars(loaded).items() if inspect.isclass(value)]
        raise ConfigError(f"{failed}{unknown_name('class', attribute, classes)}") from error
