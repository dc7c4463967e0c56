"""Every error that mir2bench raises on bad input.

Each one says what came, what was expected and what to do. They subclass the built-in error that fits, so callers may
catch either.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Mir2BenchError(Exception):
    """Base of all errors raised on purpose by mir2bench."""


class UnknownNameError(Mir2BenchError, KeyError):
    """A variant, algorithm, attacker or budget of that name does not exist."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class SpecError(Mir2BenchError, ValueError):
    """A variant's description (TOML or object) is incomplete, misspelt or contradictory."""


class PartitionError(Mir2BenchError, ValueError):
    """A partition phi has the wrong length, values or number of adversaries."""


class ActionError(Mir2BenchError, ValueError):
    """An action has the wrong shape, is not finite, is out of range or is illegal in strict mode."""


class StateError(Mir2BenchError, ValueError):
    """An `initial_state` cannot be set."""


class PolicyError(Mir2BenchError, ValueError):
    """A policy bundle is damaged, incomplete or belongs to another variant."""


class NotApplicableError(PolicyError):
    """An attacker cannot play against this team at all, since the team lacks what the attack looks into."""


class ConfigError(Mir2BenchError, ValueError):
    """A setting of an algorithm, budget or protocol is unknown or out of range."""


class StudyError(Mir2BenchError, RuntimeError):
    """A study's folder cannot be used: another study lies there, it is locked, or a job failed."""


class CheckpointError(Mir2BenchError, RuntimeError):
    """A checkpoint is damaged, or belongs to another training."""


class GameError(Mir2BenchError, RuntimeError):
    """An outside program that a world runs on does not start."""


class ConformanceError(Mir2BenchError, AssertionError):
    """An environment, defender or attacker does not keep its contract; the message lists every breach."""


class MissingDependencyError(Mir2BenchError, ImportError):
    """An optional package is needed; the message holds the pip line that installs it."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Build the "did you mean" error for `name`, which is none of `known`.

    Args:
        kind: what was looked up, for example "variant".
        name: what the caller gave, which need not be a text.
        known: all names that exist.
    """
    names, name = sorted(known), str(name)
    # Compare without case and namespace, so that `rendezvous10-adv1` still finds its id.
    short = {n.rsplit("/", 1)[-1].lower(): n for n in names}
    close = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), list(short), n=3, cutoff=0.5)
    if close:
        hint = f"Did you mean {' or '.join(f'`{short[c]}`' for c in close)}?"
    else:
        hint = f"There are: {', '.join(names) if names else 'none'}."
    return UnknownNameError(f"No {kind} `{name if len(name) <= 200 else name[:200] + '...'}`. {hint}")


def short(value: object) -> str:
    """Return a value as an error message shows it: what strangers wrote may be long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
