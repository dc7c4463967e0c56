"""Where the time of a training goes: worlds, policy, replay, updates; and how much memory it takes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from mir2bench.errors import ConfigError
from mir2bench.registration import VariantSpec, spec
from mir2bench.speed import Figure, Options

_SHORT_ROUND = 20  # steps; of shorter rounds ten are measured at once
_GROWTH = (2, 4)


@dataclass(frozen=True)
class Training(Options):
    """Time and memory of a round of training: every world makes `--steps` steps, then the learner `--updates` updates.

    By default the round is the one that a training consists of. How cost grows with agents is seen by naming variants
    of several sizes; with batch and horizon, by --grow.
    """

    env: tuple[str, ...] = ("Rendezvous10-adv0-v0",)
    """Variants."""
    algo: tuple[str, ...] = ()
    """Defenders of the shared backbone; by default all. Ratios are to maddpg, or without it to the first."""
    steps: int = 1
    """Steps of every world in a round."""
    updates: int | None = None
    """Updates in a round; by default the defender's own number."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Settings that differ from the defaults, such as worlds=1, hidden=256, batch_size=1600."""
    threads: int = 1
    """Torch's threads."""
    grow: bool = False
    """Also measure an update on 2 and 4 times the batch and, for recurrent actors, the horizon."""

    def check(self) -> None:
        """See `Options.check`."""
        super().check()
        for name in ("steps", "threads", *(() if self.updates is None else ("updates",))):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} must be 1 or more, but it is {getattr(self, name)}.")
        if len(set(self.algo)) < len(self.algo):
            raise ConfigError(f"each defender is named once, but they are {', '.join(self.algo)}.")

    def measure(self) -> list[Figure]:
        """Return milliseconds, environment steps per second, ratios and megabytes of every defender."""
        import torch

        from mir2bench.analysis.timing import on_backbone
        from mir2bench.defenders import list_defenders
        from mir2bench.evaluation.contenders import resolve_configs

        names = list(self.algo) or [name for name in list_defenders() if on_backbone(name)]
        figures: list[Figure] = []
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            for variant in (spec(name) for name in self.env):
                configs = resolve_configs(names, self.settings, variant)
                figures += self._rounds(variant, configs)
                if self.grow:
                    figures += [figure for name in names for figure in self._growth(variant, name, configs[name])]
        finally:
            torch.set_num_threads(before)
        return figures

    def _rounds(self, variant: VariantSpec, configs: Mapping[str, dict[str, Any]]) -> list[Figure]:
        """Measure rounds of all defenders on a variant, in turn, and the memory of each in a process of its own."""
        from mir2bench.analysis.timing import Rig, take_turns

        rigs = {name: Rig(name, variant, config) for name, config in configs.items()}
        flops = {name: _flops(rig) for name, rig in rigs.items()}
        watches = {name: _Stopwatch(rig) for name, rig in rigs.items()}

        def turn_of(name: str) -> Callable[[], dict[str, float]]:
            def turn() -> dict[str, float]:
                seconds = watches[name].around(self.steps, self._updates(rigs[name].config))
                limit = flops[name] / _product_rate()
                return {**seconds, "one update": rigs[name].update(), "products": limit}

            return turn

        seen = take_turns({name: turn_of(name) for name in rigs}, self.rounds)
        reference = "maddpg" if "maddpg" in rigs else next(iter(rigs))
        figures = []
        for name, rows in seen.items():
            where = f"{variant.id} {name}"
            for part in ("round", *_Stopwatch.PARTS, "one update"):
                figures.append(Figure.of(f"{where} {part}", "ms", [row[part] * 1e3 for row in rows]))
            figures.append(
                Figure.of(f"{where} its matrix products alone", "ms", [row["products"] * 1e3 for row in rows])
            )
            frames = rigs[name].config.worlds * self.steps
            figures.append(Figure.of(f"{where} speed", "env steps/s", [frames / row["round"] for row in rows]))
            for part in ("round", "one update"):
                mine, theirs = ([row[part] for row in seen[which]] for which in (name, reference))
                pairs = [a / b for a, b in zip(mine, theirs, strict=True)]
                ratio = Figure.of(f"{where} {part}", f"times {reference}'s", pairs)
                figures.append(dataclasses.replace(ratio, median=float(np.median(mine) / np.median(theirs))))
            peak = _in_fresh_process(variant, name, configs[name], self.steps, self._updates(rigs[name].config))
            figures.append(Figure.of(f"{where} peak memory, replay of a few episodes", "MB", [peak]))
            figures.append(Figure.of(f"{where} full replay", "MB", [rigs[name].full_replay_bytes() / 1e6]))
        return figures

    def _growth(self, variant: VariantSpec, name: str, config: dict[str, Any]) -> list[Figure]:
        """Measure one update as its batch and, for recurrent actors, the horizon grow, taking turns."""
        from mir2bench.analysis.timing import Rig, take_turns

        rigs = {
            f"batch x {k}": Rig(name, variant, {**config, "batch_size": k * config["batch_size"]})
            for k in (1, *_GROWTH)
        }
        if config["recurrent"]:
            for k in _GROWTH:
                longer = dataclasses.replace(variant, horizon=k * variant.horizon)
                rigs[f"horizon x {k}"] = Rig(name, longer, config)
        seen = take_turns({label: rig.update for label, rig in rigs.items()}, self.rounds)
        where = f"{variant.id} {name} one update,"
        return [Figure.of(f"{where} {label}", "ms", [s * 1e3 for s in rows]) for label, rows in seen.items()]

    def _updates(self, config: Any) -> int:
        return config.updates_per_step if self.updates is None else self.updates


class _Stopwatch:
    """Tells where a rig's time goes, by wrapping the methods that do the work."""

    PARTS = ("worlds", "policy", "replay", "updates")

    def __init__(self, rig: Any) -> None:
        self._rig = rig
        self._seconds: dict[str, float] = dict.fromkeys(self.PARTS, 0.0)
        for part, owner, methods in (
            ("worlds", rig.task, ("step", "reset")),
            ("policy", rig.learner.policy, ("act",)),
            ("policy", rig.learner, ("intervene",)),
            ("replay", rig.replay, ("add", "start", "sample", "sample_episodes")),
            ("updates", rig.learner, ("update",)),
        ):
            for method in methods:
                self._wrap(part, owner, method)

    def around(self, steps: int, updates: int) -> dict[str, float]:
        """Play and learn for a round; return the seconds of its parts and of the whole."""
        repeats = 10 if steps < _SHORT_ROUND else 1
        self._seconds = dict.fromkeys(self.PARTS, 0.0)
        start = time.perf_counter()
        for _ in range(repeats):
            self._rig.round(steps, updates)
        seconds = {"round": time.perf_counter() - start, **self._seconds}
        return {part: value / repeats for part, value in seconds.items()}

    def _wrap(self, part: str, owner: Any, method: str) -> None:
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = original(*args, **kwargs)
            self._seconds[part] += time.perf_counter() - start
            return result

        setattr(owner, method, timed)


def _flops(rig: Any) -> float:
    """Return the floating-point operations of the matrix products in one update."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):  # torch's own FlopCounterMode also tracks modules, which ERNIE's gradients forbid
        total = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket in flop_registry:
                self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
            return result

    with Counter() as counter:
        rig.round(0, 1)
    return counter.total


def _product_rate() -> float:
    """Return floating-point operations per second of one large matrix product, the most that this machine gives."""
    import torch

    one, other = torch.ones(2048, 256), torch.ones(256, 256)
    start, repeats = time.perf_counter(), 20
    for _ in range(repeats):
        torch.mm(one, other)
    return repeats * 2.0 * 2048 * 256 * 256 / (time.perf_counter() - start)


def _in_fresh_process(variant: VariantSpec, name: str, config: dict[str, Any], steps: int, updates: int) -> float:
    """Return the peak memory in MB of a process that does nothing but one round."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_memory, variant, name, config, steps, updates).result()


def _peak_memory(variant: VariantSpec, name: str, config: dict[str, Any], steps: int, updates: int) -> float:
    from mir2bench.analysis.timing import Rig

    Rig(name, variant, config).round(steps, updates)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent, from whose memory this process was started
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, kilobytes elsewhere
