"""Finding and starting the real SMAC: the `smac` package of its git repository and StarCraft II itself."""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mir2bench.errors import MissingDependencyError

GAME_VERSION = "4.10"  # of StarCraft II; others play differently
MARINES = {"a_race": "T", "b_race": "T", "unit_type_bits": 0, "map_type": "marines"}  # what all our maps share

_INSTALL = "pip install git+https://github.com/oxwhirl/smac.git"
_CRASHES = ("pysc2", "websocket", "s2clientprotocol")  # packages whose errors mean that the game is gone
_construction = threading.Lock()


def check_installation(map_name: str) -> None:
    """Raise `MissingDependencyError` with what to do, if the package, the game or the map is missing."""
    _modules()
    folder = os.environ.get("SC2PATH", "")
    if not folder:
        raise MissingDependencyError(
            f"SMAC needs StarCraft II {GAME_VERSION}, and the environment variable SC2PATH must name its folder, but "
            "it is not set. docs/smac.md tells where to get the game."
        )
    if not Path(folder).is_dir():
        raise MissingDependencyError(
            f"SC2PATH must name the folder of StarCraft II {GAME_VERSION}, but {folder!r} is no folder. docs/smac.md "
            "tells where to get the game."
        )
    path = Path(folder) / "Maps" / "SMAC_Maps" / f"{map_name}.SC2Map"
    if not path.is_file():
        raise MissingDependencyError(f"The map {path} is missing. docs/smac.md tells where to get it; put it there.")


def start_game(map_name: str, n_agents: int, n_enemies: int, limit: int, seed: int) -> Any:
    """Return a `StarCraft2Env` with SMAC's default flags, whose first `reset` starts its own game process.

    The map's numbers are given to it as arguments: SMAC looks them up by a function of its module, which is replaced
    while the constructor runs. Its registry stays as it is. pysc2 finds map files by the classes that describe them, so
    a map that SMAC does not know gets one.

    Args:
        map_name: name of the map file.
        n_agents, n_enemies: units on either side.
        limit: steps until SMAC says that an episode is over.
        seed: the game's random seed, from 1 to 2^31 - 1.
    """
    starcraft2, maps = _modules()
    _describe_map(maps.SMACMap, map_name)
    parameters = {"n_agents": n_agents, "n_enemies": n_enemies, "limit": limit, **MARINES}
    with _given(starcraft2, parameters):
        return starcraft2.StarCraft2Env(map_name=map_name, seed=seed)


def is_crash(error: Exception) -> bool:
    """Return whether an error says that a game process died or cannot be reached."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CRASHES


def version_of(game: Any) -> str:
    """Return the version that a running game tells, or "unknown"."""
    try:
        return str(game._controller.ping().game_version)
    except Exception:  # whatever a version of SMAC or pysc2 does not have
        return "unknown"


@contextmanager
def _given(starcraft2: Any, parameters: dict[str, Any]) -> Iterator[None]:
    with _construction:
        kept = starcraft2.get_map_params
        starcraft2.get_map_params = lambda map_name: parameters
        try:
            yield
        finally:
            starcraft2.get_map_params = kept


def _describe_map(base: Any, map_name: str) -> None:
    if map_name not in {kind.__name__ for kind in base.__subclasses__()}:
        kind = type(map_name, (base,), {"filename": map_name})
        _described.append(kind)  # pysc2 sees only classes that somebody holds


_described: list[type] = []


def _modules() -> tuple[Any, Any]:
    """Return SMAC's modules of the environment and of the maps."""
    try:
        starcraft2 = importlib.import_module("smac.env.starcraft2.starcraft2")
        return starcraft2, importlib.import_module("smac.env.starcraft2.maps.smac_maps")
    except Exception as error:  # protobuf, for one, raises a TypeError
        raise MissingDependencyError(_explain(error)) from error


def _explain(error: Exception) -> str:
    try:
        found = importlib.util.find_spec("smac")
    except ValueError:
        found = None
    if found is None:
        return (
            f"SMAC needs the package `smac` of its git repository, which is not installed. Run: {_INSTALL} "
            "(`pip install smac` would install another package of that name)."
        )
    folders = [Path(folder) for folder in found.submodule_search_locations or []]
    if not any((folder / "env").is_dir() for folder in folders):
        tuner = any((folder / "facade").is_dir() for folder in folders)
        what = "PyPI's `smac` (SMAC3), a tuner of hyperparameters" if tuner else "another one"
        return (
            f"SMAC needs the package `smac` of its git repository, but the installed package of that name is {what}. "
            f"Run: pip uninstall smac, then: {_INSTALL}"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"The package `smac` needs `{error.name}`, which is not installed. Run: {_INSTALL}"
    first = str(error).strip().partition("\n")[0]
    return (
        f"The package `smac` is installed, but importing it raises {type(error).__name__}: {first} If that is about "
        "protobuf, set the environment variable PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python; see docs/smac.md."
    )
