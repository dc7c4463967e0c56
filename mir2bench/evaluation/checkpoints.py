"""The state of a training on the disk: one file that is whole or absent, and refused by any other training.

It is in safetensors' format: arrays, and as metadata the JSON tree they belong to, what was trained, and a sha256.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mir2bench
from mir2bench.errors import CheckpointError
from mir2bench.evaluation.files import StorageError, differences, plain, replace_file
from mir2bench.learning.state import State, Stateful
from mir2bench.registration import VariantSpec

EVERY = 60.0
"""Least seconds between two checkpoints."""
SHARE = 0.01
"""Largest share of a training's time that goes into them."""
_SPEED = 2e8  # bytes per second that a disk takes, before anything was measured
_ARRAY, _TENSOR, _ITEMS = "$array", "$tensor", "$items"


class Checkpoint:
    """Where one training keeps its state; see `learning.state.Keeper`.

    Args:
        path: the file.
        identity: all that determines what is trained, plain data; see `identify`.
        recorder: what else is kept with each state and restored with it.
        say: told in one line when a checkpoint cannot be written; training goes on without it.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], recorder: Stateful, say: Callable[[str], None]) -> None:
        self.path = path
        self._identity = plain(identity)
        self._recorder = recorder
        self._say = say
        self._begun = self._saved = time.monotonic()
        self._spent = self._last = 0.0  # s for all checkpoints, and for the last one

    def due(self, size: int) -> bool:
        """See `Keeper.due`: whether all checkpoints, one more of them included, would cost no more than their share."""
        now = time.monotonic()
        cost = self._spent + max(self._last, size / _SPEED)
        return now - self._saved >= EVERY and SHARE * (now - self._begun) >= cost

    def save(self, state: State) -> None:
        """Put a state in the place of the one before."""
        began = time.monotonic()
        tree, arrays = pack({"training": state, "recorder": self._recorder.state_dict()})
        metadata = {"identity": json.dumps(self._identity), "tree": json.dumps(tree)}
        metadata["sha256"] = _digest(metadata, arrays)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, lambda path: _write(path, arrays, metadata))
        except (OSError, StorageError) as error:
            self._say(f"no checkpoint was kept: {error}")
        self._saved = time.monotonic()
        self._last = self._saved - began
        self._spent += self._last

    def load(self) -> State | None:
        """Return the state to go on from, and restore the recorder; None if there is no file.

        Raises:
            CheckpointError: it is damaged, or of another training.
        """
        if not self.path.exists():
            return None
        metadata, arrays = _read(self.path)
        differing = differences(json.loads(metadata["identity"]), self._identity)
        if differing:
            raise CheckpointError(
                f"{self.path} is of another training; they differ in {'; '.join(differing[:4])}"
                f"{' ...' if len(differing) > 4 else ''}."
            )
        if metadata["sha256"] != _digest(metadata, arrays):
            raise CheckpointError(f"{self.path} is damaged: its sha256 does not fit.")
        state = unpack(json.loads(metadata["tree"]), arrays)
        self._recorder.load_state_dict(state["recorder"])
        return state["training"]

    def drop(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def identify(
    algorithm: str, defender: type, config: Mapping[str, Any], variant: VariantSpec, *, seed: int, steps: int
) -> dict[str, Any]:
    """Return all that determines a training's result, and the code that does it: other code may give other numbers."""
    foreign = {c for c in (defender, variant.engine_class) if c.__module__.partition(".")[0] != mir2bench.__name__}
    return {
        "algorithm": algorithm,
        "config": dict(config),
        "variant": variant.to_dict(),
        "seed": seed,
        "steps": steps,
        "versions": {"mir2bench": mir2bench.__version__, "numpy": np.__version__, "torch": str(torch.__version__)},
        "code": {"mir2bench": _own_code(), **{c.__module__: _code_of(c) for c in foreign}},
    }


@functools.cache
def _own_code() -> str:
    root = Path(mir2bench.__file__).parent
    contents = (p.read_bytes() for p in sorted(root.rglob("*.py")))
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def _code_of(cls: type) -> str:
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(cls) or cls).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return "unknown"


def pack(value: Any, arrays: dict[str, np.ndarray] | None = None, name: str = "") -> tuple[Any, dict[str, np.ndarray]]:
    """Part a state into JSON data and named arrays, which are not copied."""
    arrays = {} if arrays is None else arrays
    if isinstance(value, torch.Tensor | np.ndarray):
        tensor = isinstance(value, torch.Tensor)
        arrays[name] = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        return {_TENSOR if tensor else _ARRAY: name}, arrays
    if isinstance(value, Mapping):
        packed = [[key, pack(item, arrays, f"{name}/{key}")[0]] for key, item in value.items()]
        return (dict(packed) if all(isinstance(key, str) for key in value) else {_ITEMS: packed}), arrays
    if isinstance(value, list | tuple):
        return [pack(item, arrays, f"{name}/{place}")[0] for place, item in enumerate(value)], arrays
    return (value.item() if isinstance(value, np.generic) else value), arrays


def unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Join what `pack` parted; tuples come back as lists."""
    if isinstance(value, list):
        return [unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_ARRAY}:
        return arrays[value[_ARRAY]]
    if value.keys() == {_TENSOR}:
        return torch.from_numpy(arrays[value[_TENSOR]])
    items = value[_ITEMS] if value.keys() == {_ITEMS} else value.items()
    return {key: unpack(item, arrays) for key, item in items}


def _digest(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(f"{metadata['identity']}{metadata['tree']}".encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        found.update(f"{name}{array.dtype}{array.shape}".encode())
        found.update(array.data if array.size else b"")
    return found.hexdigest()


def _write(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path, metadata)
    except SafetensorError as error:
        raise _as_os_error(error) from error


def _as_os_error(error: Exception) -> OSError:
    """Return the error of the operating system that safetensors mentions in its message only."""
    codes = (code for code in errno.errorcode if f"code: {code}," in str(error) or f"os error {code})" in str(error))
    return OSError(next(codes, 0), str(error))


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if not {"identity", "tree", "sha256"} <= metadata.keys():
                raise CheckpointError(f"{path} is no checkpoint.")
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except CheckpointError:
        raise
    except Exception as error:  # safetensors raises many kinds; each means that the file is unusable
        raise CheckpointError(f"{path} is damaged: {error}.") from error
