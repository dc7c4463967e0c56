"""Reading an `initial_state`: its keys and its arrays, for all families."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mir2bench.errors import StateError


def read_start(given: Any, needed: Collection[str], form: str, optional: Collection[str] = ()) -> Mapping[str, Any]:
    """Return `given` if it is a mapping with the right keys.

    Args:
        given: what a caller wants to start from.
        needed: keys that it must have.
        form: what it should look like, for messages.
        optional: keys that it may have as well.

    Raises:
        StateError: it is something else.
    """
    if isinstance(given, Mapping) and set(needed) <= set(given) <= {*needed, *optional}:
        return given
    got = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
    further = f" with {', '.join(sorted(optional))} as further keys at most," if optional else ""
    raise StateError(f"initial_state must be {form},{further} but it holds {got}.")


def read_numbers(name: str, given: Any, shape: tuple[int, ...], meaning: str = "") -> np.ndarray:
    """Return a new float64 array of that shape; its numbers may be infinite or not a number.

    Args:
        name: what it is called, for messages.
        given: the caller's array or lists.
        shape: what it must have.
        meaning: what its columns are, for messages.

    Raises:
        StateError: it has another shape, or holds something else than real numbers.
    """
    told = f"{shape}: {meaning}" if meaning else f"{shape}"
    try:
        values = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise StateError(f"{name} must be an array of shape {told}; its rows are uneven: {error}.") from error
    except RuntimeError as error:  # tensors that need gradients, for example
        raise StateError(f"{name} must be an array of shape {told}, but it cannot become one: {error}") from error
    if values.dtype.kind not in "biuf":
        raise StateError(f"{name} must hold real numbers in an array of shape {told}, but it is {given!r}.")
    if values.shape != shape:
        raise StateError(f"{name} has shape {values.shape}, but it must be {told}.")
    with np.errstate(over="ignore"):  # infinite then
        return values.astype(np.float64)


def read_integers(name: str, given: Any, size: int, low: int, high: int) -> np.ndarray:
    """Return (size,) int64 from `low` to `high` - 1.

    Raises:
        StateError: it is something else.
    """
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        values = np.empty(0)
    if values.shape != (size,) or values.dtype.kind not in "iu" or not ((values >= low) & (values < high)).all():
        raise StateError(f"{name} must hold {size} integers from {low} to {high - 1}, but it is {given!r}.")
    return values.astype(np.int64)
