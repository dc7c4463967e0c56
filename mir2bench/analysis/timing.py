"""Time of a training epoch of each defender, in the manner of the paper's Table 1.

The paper's epoch is one collected episode and the learner calls that follow it. Its authors' code collects with
gradients for MADDPG and M3DDPG and without for MIR2, which charges the former for what no method needs; here all
collect without, with the same loop, the same number of worlds and the same batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from mir2bench.analysis import options as shared
from mir2bench.analysis.output import Output, drawing, short_id
from mir2bench.defenders import get_defender, list_defenders, make_defender
from mir2bench.errors import ConfigError
from mir2bench.evaluation.figures import PALETTE
from mir2bench.evaluation.tables import number
from mir2bench.learning.loop import Collector
from mir2bench.learning.replay import Batch, EpisodeReplay
from mir2bench.learning.threads import one_torch_thread
from mir2bench.registration import VariantSpec, spec

DESCRIPTION = """Measure seconds per training epoch of all defenders, taking turns (Table 1).

Examples:
  python -m mir2bench.analyze timing
  python -m mir2bench.analyze timing --env Rendezvous40-adv1-v0 --algo maddpg mir2 --epochs 20
  python -m mir2bench.analyze timing --updates 100 --out runs/timing"""

_PARTS = ("epoch", "collect", "learn", "update")
_UPDATES_ALONE = 10  # per round and defender, behind which the clock's own time vanishes
_REPETITIONS = 2_000  # bootstrap resamples per interval


@dataclass(frozen=True)
class Options(shared.Options):
    """What is measured. An epoch is one episode in one world, then `updates` learner calls."""

    algo: tuple[str, ...] = ()
    """Defenders of the shared backbone; by default all. Ratios are to maddpg, or without it to the first."""
    epochs: int = 50
    """Epochs of each defender that count; they take turns."""
    updates: int = 1
    """Learner calls per epoch: 1 in the paper's StarCraft and rendezvous experiments, 100 on HalfCheetah."""
    batch_episodes: int = 8
    """Episodes in the batch of each call: as many transitions, or whole episodes where actors are recurrent."""


class Rig:
    """A defender in the middle of its training, for measuring.

    Args:
        name: the defender.
        variant: the world.
        settings: fields of its `Config` that differ from what the variant recommends.
        episodes: random episodes that are stored, at least; one per world in any case.

    Raises:
        UnknownNameError, ConfigError: no such defender or setting.
        ConfigError: it does not share our training loop.
    """

    def __init__(
        self, name: str, variant: VariantSpec, settings: Mapping[str, Any] | None = None, *, episodes: int = 1
    ) -> None:
        if not on_backbone(name):
            raise ConfigError(f"{name} does not share our training loop: its epochs cannot be measured. Leave it out.")
        defender = make_defender(name, variant, settings)
        config = self.config = defender.config
        task = self.task = defender.task(variant, 0)
        task.reset(seeds=list(range(config.worlds)))
        self.learner = defender.Learner(task, config, 0)
        capacity = (episodes + 2) * variant.horizon
        replay = self.replay = EpisodeReplay(task, capacity, n_steps=config.n_steps, gamma=config.gamma)
        self._collector = Collector(task, self.learner, replay, np.random.default_rng(0))
        self._rng = np.random.default_rng(0)
        ended = 0
        while ended < episodes:
            ended += self._collector.step(warm=True)
        self.horizon = variant.horizon
        self._batch = self._draw(self.config.batch_size)

    def _draw(self, size: int) -> Batch:
        draw = self.replay.sample_episodes if self.learner.recurrent else self.replay.sample
        return draw(size, self._rng)

    def full_replay_bytes(self) -> int:
        """Return the memory of the replay of a training, once all of it is written."""
        config = self.config
        return EpisodeReplay(self.task, config.capacity, n_steps=config.n_steps, gamma=config.gamma).nbytes

    def round(self, steps: int, updates: int) -> None:
        """Let every world make `steps` steps, then learn from `updates` batches of the defender's own size."""
        for _ in range(steps):
            self._collector.step()
        for _ in range(updates):
            self.learner.update(self._draw(self.config.batch_size))

    def collect(self) -> float:
        """Play until an episode has ended; return the seconds."""
        start = time.perf_counter()
        while not self._collector.step():
            pass
        return time.perf_counter() - start

    def learn(self, updates: int, size: int) -> float:
        """Draw and learn from `updates` batches of `size` transitions (episodes if recurrent); return the seconds."""
        start = time.perf_counter()
        for _ in range(updates):
            self.learner.update(self._draw(size))
        return time.perf_counter() - start

    def update(self) -> float:
        """Learn from one batch of the defender's own size, drawn beforehand; return the seconds of an update."""
        start = time.perf_counter()
        for _ in range(_UPDATES_ALONE):
            self.learner.update(self._batch)
        return (time.perf_counter() - start) / _UPDATES_ALONE


def on_backbone(name: str) -> bool:
    """Whether a defender shares our training loop, so that its parts can be measured."""
    return all(hasattr(get_defender(name), part) for part in ("Learner", "task"))


def take_turns(work: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Call every function once per round, in turn, and return what each returned; one round more warms up.

    A machine whose speed drifts still gives honest ratios then.
    """
    seen: dict[str, list[Any]] = {name: [] for name in work}
    for count in range(rounds + 1):
        for name, function in work.items():
            value = function()
            if count:
                seen[name].append(value)
    return seen


@one_torch_thread()
def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Make the measurement that the options describe."""
    for name in ("epochs", "updates", "batch_episodes"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be 1 or more, but it is {getattr(options, name)}.")
    variant = spec(options.env)
    names = list(options.algo) or [name for name in list_defenders() if on_backbone(name)]
    if len(set(names)) < len(names):
        raise ConfigError(f"each defender is named once, but they are {', '.join(names)}.")
    rigs = {name: Rig(name, variant, {"worlds": 1}, episodes=options.batch_episodes) for name in names}
    output = Output("timing", options)
    data = measure(rigs, options)
    reference = "maddpg" if "maddpg" in names else names[0]
    table = summarize(data, reference)
    output.table("timing-epochs", data)
    output.table("timing", table)
    output.figure("timing", draw(table, reference, variant))
    output.show(
        as_shown(table, reference), f"{variant.id}: seconds per epoch, {options.epochs} epochs each, one thread"
    )
    output.summary({"reference": reference, "results": table.to_dict("records")})


def measure(rigs: Mapping[str, Rig], options: Options) -> pd.DataFrame:
    """Return one row per (round, defender): columns round, defender, collect_s, learn_s, epoch_s, update_s.

    `epoch_s` is the sum of collecting an episode and of the learner calls; `update_s` is an update on a batch of the
    defender's own size, drawn beforehand, and no part of the epoch.
    """

    def turn(rig: Rig) -> dict[str, float]:
        size = options.batch_episodes * (1 if rig.learner.recurrent else rig.horizon)
        collect, learn = rig.collect(), rig.learn(options.updates, size)
        return {"collect_s": collect, "learn_s": learn, "epoch_s": collect + learn, "update_s": rig.update()}

    def turn_of(rig: Rig) -> Callable[[], dict[str, float]]:
        return lambda: turn(rig)

    seen = take_turns({name: turn_of(rig) for name, rig in rigs.items()}, options.epochs)
    rows = [{"round": count, "defender": name, **seen[name][count]} for count in range(options.epochs) for name in rigs]
    return pd.DataFrame(rows)


def summarize(data: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return one row per defender, in order of appearance.

    Columns defender; for epoch, collect, learn and update `<what>_median_s`, `<what>_mean_s`, `<what>_std_s` (over the
    rounds); `epoch_ratio` and `update_ratio`, medians over the reference's, each with the 95% interval `_low`, `_high`
    of a bootstrap over rounds, in which all defenders keep the turns of a round together.
    """
    wide = {what: data.pivot(index="round", columns="defender", values=f"{what}_s") for what in _PARTS}
    chosen = np.random.default_rng(0).integers(len(wide["epoch"]), size=(_REPETITIONS, len(wide["epoch"])))
    rows = []
    for name in dict.fromkeys(data["defender"]):
        row: dict[str, Any] = {"defender": name}
        for what in _PARTS:
            seconds = wide[what][name].to_numpy()
            row |= {f"{what}_median_s": np.median(seconds), f"{what}_mean_s": seconds.mean()}
            row[f"{what}_std_s"] = seconds.std(ddof=1) if len(seconds) > 1 else np.nan
        for what in ("epoch", "update"):
            mine, theirs = wide[what][name].to_numpy(), wide[what][reference].to_numpy()
            ratios = np.median(mine[chosen], axis=1) / np.median(theirs[chosen], axis=1)
            low, high = np.percentile(ratios, [2.5, 97.5])
            row[f"{what}_ratio"] = np.median(mine) / np.median(theirs)
            row |= {f"{what}_ratio_low": low, f"{what}_ratio_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def as_shown(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the table for people."""

    def spread(what: str, unit: float) -> list[str]:
        mean, std = table[f"{what}_mean_s"] * unit, table[f"{what}_std_s"] * unit
        return [f"{number(m)} +- {number(s)}" for m, s in zip(mean, std, strict=True)]

    def ratio(what: str) -> list[str]:
        parts = (table[f"{what}_ratio{end}"] for end in ("", "_low", "_high"))
        return [f"{r:.2f} [{low:.2f}, {high:.2f}]" for r, low, high in zip(*parts, strict=True)]

    return pd.DataFrame(
        {
            "defender": table["defender"],
            "epoch, ms": spread("epoch", 1e3),
            "median": [number(v * 1e3) for v in table["epoch_median_s"]],
            f"to {reference}": ratio("epoch"),
            "one update, ms": spread("update", 1e3),
            f"update to {reference}": ratio("update"),
        }
    )


def draw(table: pd.DataFrame, reference: str, variant: VariantSpec) -> Figure:
    """Draw a bar per defender: the median seconds of collecting and of learning, and the ratio to the reference."""
    with drawing():
        figure = Figure(figsize=(6.0, 1.2 + 0.42 * len(table)))
        axes = figure.add_subplot()
        left = np.zeros(len(table))
        for i, (what, label) in enumerate((("collect", "one episode"), ("learn", "learner calls"))):
            width = table[f"{what}_median_s"].to_numpy() * 1e3
            axes.barh(
                range(len(table)),
                width,
                0.6,
                left=left,
                color=PALETTE[i],
                hatch=("", "//")[i],
                edgecolor="white",
                label=label,
            )
            left = left + width
        spread = table["epoch_std_s"].fillna(0).to_numpy() * 1e3
        axes.errorbar(left, range(len(table)), xerr=spread, fmt="none", color="black", capsize=3, linewidth=1)
        for y, (end, ratio) in enumerate(zip(left + spread, table["epoch_ratio"], strict=True)):
            axes.annotate(
                f"{ratio:.2f} x", (end, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        axes.set_yticks(range(len(table)), list(table["defender"]))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("milliseconds per epoch (whiskers: one standard deviation)")
        axes.set_title(f"{short_id(variant)}: time of an epoch and its ratio to {reference}", fontsize=10)
        figure.legend(loc="outside lower center", ncols=2)
    return figure
