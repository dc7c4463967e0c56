"""What the checks share: collecting problems, watching global state, counting environment steps, reading reports."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mir2bench.engines.base import Worlds
from mir2bench.errors import ConfigError, ConformanceError
from mir2bench.learning import rollout
from mir2bench.learning.progress import Progress
from mir2bench.plugins import class_problems, make_config
from mir2bench.registration import VariantSpec, register, spec


def report(name: str, problems: Iterable[str], cause: BaseException | None = None) -> None:
    """Raise one error that lists every problem once, unless there is none.

    Args:
        name: what was checked.
        problems: whole sentences.
        cause: an exception of the checked code, whose traceback helps its author.

    Raises:
        ConformanceError: there is a problem.
    """
    listed = "\n".join(f"- {problem}" for problem in dict.fromkeys(problems))
    if listed:
        raise ConformanceError(f"{name} breaks its contract:\n{listed}") from cause


def registered(variant: str | VariantSpec) -> VariantSpec:
    """Return a variant's spec; one that is given whole is registered, since policies are loaded by its id.

    Raises:
        UnknownNameError, SpecError: see `registration.spec` and `register`.
    """
    found = spec(variant)
    register(found)
    return found


def told(error: BaseException) -> str:
    """Return an exception as a piece of a sentence, without a full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Trial(contextlib.AbstractContextManager["Trial"]):
    """Runs a stranger's code: an exception becomes a problem, global state is put back, steps are counted.

    Args:
        problems: where problems are added.
        what: what runs, as the subject of a sentence.

    Attributes:
        error: the exception, or None.
        steps: environment steps made inside, summed over parallel worlds; those of `learning.rollout.rollout`, which
            measures, do not count.
    """

    def __init__(self, problems: list[str], what: str) -> None:
        self.error: Exception | None = None
        self.steps = 0
        self._problems = problems
        self._what = what
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Trial:
        self._before = {name: read() for name, (read, _, _) in _GLOBALS.items()}
        self._undo.enter_context(self._counting())
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        self._undo.close()
        for name, (read, restore, advice) in _GLOBALS.items():
            if not _same(read(), self._before[name]):
                restore(self._before[name])
                self._problems.append(f"{self._what} changes {name}. {advice}")
        if not isinstance(error, Exception):
            return False
        self.error = error
        self._problems.append(f"{self._what} raises {told(error)}.")
        return True

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        original, trial = Worlds.step, self

        def step(self: Worlds, actions: np.ndarray) -> None:
            original(self, actions)
            if not isinstance(self, _Measuring):
                trial.steps += self.batch

        Worlds.step, rollout.Worlds = step, _Measuring  # type: ignore[method-assign, misc]
        try:
            yield
        finally:
            Worlds.step, rollout.Worlds = original, Worlds  # type: ignore[method-assign, misc]


class _Measuring(Worlds):
    """The worlds of `rollout` while steps are counted."""


_DRAW = "Draw from generators that are made from `seed`."
_GLOBALS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], str]] = {
    "numpy's global random state": (np.random.get_state, np.random.set_state, _DRAW),
    "Python's global random state": (random.getstate, random.setstate, _DRAW),
    "torch's global random state": (
        torch.get_rng_state,
        torch.set_rng_state,
        f"{_DRAW} Initial weights are drawn inside `with torch.random.fork_rng(devices=[])`.",
    ),
    "torch's number of threads": (
        torch.get_num_threads,
        torch.set_num_threads,
        "Decorate the method with `mir2bench.learning.threads.one_torch_thread()`, which puts it back.",
    ),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype, "Name dtypes where you need them."),
}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple):
        return all(map(_same, one, other))
    return bool(np.array_equal(one, other))


def step_problems(steps: int, budget: int, what: str) -> Iterator[str]:
    """Say whether more environment steps were made than the budget allows; 0 means that none could be counted."""
    if steps > budget:
        yield (
            f"{what} makes {steps} environment steps on a budget of {budget}. Every step of every parallel world "
            "counts; only measuring with `learning.rollout.rollout` is free."
        )


def progress_problems(reports: list[Any], budget: int) -> Iterator[str]:
    """Say what is wrong with the reports that a callback got."""
    if not all(isinstance(one, Progress) for one in reports):
        other = next(one for one in reports if not isinstance(one, Progress))
        yield f"the callback must get `mir2bench.learning.progress.Progress` objects, but it got {other!r}."
        return
    steps = [one.steps for one in reports]
    if steps != sorted(steps) or any(not 0 <= step <= budget for step in steps):
        yield f"the steps in the reports must grow from 0 to the budget of {budget}, but they are {_short(steps)}."
    if any(one.budget != budget for one in reports):
        yield f"the reports must name the budget of {budget}, but one names {reports[-1].budget}."
    for one in reports:
        for key, value in one.metrics.items():
            try:
                float(value)
            except (TypeError, ValueError):
                yield f"the metric {key!r} in the reports must be a number, but it is {value!r}."


def algorithm_problems(found: Any, methods: tuple[str, ...]) -> list[str]:
    """Say what is wrong with the class of a defender or attacker, before anything is trained.

    Args:
        found: the class.
        methods: what it must have, see `plugins.class_problems`.
    """
    problems = list(class_problems(found, methods))
    if problems:
        return problems
    if hasattr(found, "Config"):
        problems += _config_problems(found.Config)
    return problems + list(_construction_problems(found))


def _config_problems(config: type) -> Iterator[str]:
    """Say what is wrong with a `Config` that is a dataclass of plain values (see `plugins.class_problems`)."""
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield "its Config must not change once it is made: write `@dataclass(frozen=True)`."
    # A dataclass without a docstring has its signature for one.
    texts = [c.__doc__ or "" for c in config.__mro__ if not (c.__doc__ or "").startswith(f"{c.__name__}(")]
    for name in (field.name for field in dataclasses.fields(config)):
        if not any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts[:-1]):  # the last is `object`
            yield f"Config.{name} is not documented: say in the docstring of Config what it does."
    try:
        made = config()
    except Exception as error:
        yield f"Config() raises {told(error)}: all defaults together must be allowed."
        return
    if make_config(config, json.loads(json.dumps(dataclasses.asdict(made)))) != made:
        yield "a Config that is written as JSON and read again differs: keep the fields as they are given."


def _construction_problems(found: type) -> Iterator[str]:
    """Say whether the constructor does with nothing what it does with a default `Config`."""
    has_config = hasattr(found, "Config")
    try:
        calls = {"": (), "Config()": (found.Config(),)} if has_config else {"": ()}
    except Exception:  # told by `_config_problems`
        return
    for written, arguments in calls.items():
        try:
            made = found(*arguments)
        except Exception as error:
            yield f"{found.__name__}({written}) raises {told(error)}: the constructor takes a Config, or nothing."
            continue
        if has_config and getattr(made, "config", None) != found.Config():
            yield f"{found.__name__}({written}) must keep its configuration as `config`: it is written beside results."


def settled(found: type, settings: Mapping[str, Any] | None) -> Any:
    """Build an algorithm with settings that differ from its defaults.

    Raises:
        UnknownNameError, ConfigError: see `plugins.make_config`; or there are settings, but no `Config`.
    """
    if hasattr(found, "Config"):
        return found(make_config(found.Config, settings or {}))
    if settings:
        raise ConfigError(f"{found.__name__} has no Config, so it takes no settings: {sorted(settings)}.")
    return found()


def _short(numbers: list[int]) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-3:]])
