"""What a training must remember to go on later as if it had never stopped.

A state is a tree of plain data, numpy arrays and torch tensors. Whatever takes part in a training gives its own and
takes it back: generators by their libraries' means, all else by `state_dict` and `load_state_dict`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

State = dict[str, Any]


@runtime_checkable
class Stateful(Protocol):
    """Gives its state as a tree, and takes it back; what it shares with others (parameters, arrays) stays shared."""

    def state_dict(self) -> Any:
        """Return the state; its arrays may be the ones in use."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Become what gave that state."""
        ...


class Keeper(Protocol):
    """Where the training loop leaves its state from time to time."""

    def load(self) -> State | None:
        """Return the state to go on from, or None to begin.

        Raises:
            CheckpointError: it is damaged, or of another training.
        """
        ...

    def due(self, size: int) -> bool:
        """Whether it is time to save a state of about so many bytes."""
        ...

    def save(self, state: State) -> None:
        """Keep a state in the place of the one before."""
        ...


class UnknownStateError(TypeError):
    """Something holds state that nobody knows how to keep."""


def state_of(thing: Any) -> Any:
    """Return the state of a network, an optimizer, a generator or anything `Stateful`."""
    if isinstance(thing, np.random.Generator):
        return thing.bit_generator.state
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    return thing.state_dict()


def restore(thing: Any, state: Any) -> None:
    """Give a thing back what `state_of` returned."""
    if isinstance(thing, np.random.Generator):
        thing.bit_generator.state = state
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    else:
        thing.load_state_dict(state)


def attributes_of(thing: object, *, apart: tuple[type, ...] = ()) -> State:
    """Return the state of all attributes of an object.

    Left out are frozen dataclasses, which never change; lists of parameters, which belong to the networks beside them;
    and what else stands in `apart`.

    Args:
        thing: any object with a `__dict__`.
        apart: types of attributes that have no state of their own.

    Raises:
        UnknownStateError: an attribute is neither plain data nor `Stateful`.
    """
    state = {}
    for name, value in vars(thing).items():
        if isinstance(value, apart) or _is_frozen(value) or _are_parameters(value):
            continue
        if _keeps_itself(value):
            state[name] = state_of(value)
        elif _is_plain(value):
            state[name] = value
        else:
            kind = type(value).__name__
            raise UnknownStateError(f"{type(thing).__name__}.{name} ({kind}) has no `state_dict` and is no plain data.")
    return state


def restore_attributes(thing: object, state: Mapping[str, Any]) -> None:
    """Give an object back what `attributes_of` returned."""
    for name, value in state.items():
        current = getattr(thing, name)
        if _keeps_itself(current):
            restore(current, value)
        elif isinstance(current, Tensor) and isinstance(value, Tensor) and current.shape == value.shape:
            with torch.no_grad():
                current.copy_(value)  # it may be what an optimizer moves
        else:
            setattr(thing, name, value)


def _keeps_itself(value: Any) -> bool:
    return isinstance(value, np.random.Generator | torch.Generator | Stateful)


def _is_frozen(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and type(value).__dataclass_params__.frozen  # type: ignore[attr-defined]


def _are_parameters(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, nn.Parameter) for v in value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str | np.ndarray | Tensor)
