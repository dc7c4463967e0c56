"""Do small pieces of everything in one process for a while, and see whether memory or open files grow.

Run `PYTHONPATH=. python tests/soak.py [MINUTES] [FILE]`. Each round steps environments of all faces, attacks, and runs
a study with a real training, its checkpoints and now and then its report. It prints resident memory, open file handles
and threads as time goes by, and at the end a straight line fitted to each, without the first half, in which
libraries load and compile; with FILE the series is written there as CSV. It exits with 1 if memory grows by more than 3
standard errors and 10 MB an hour, or if handles or threads grow.
"""

from __future__ import annotations

import csv
import dataclasses
import gc
import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
from evaluation_stubs import BUDGET, DEFENDER, EAGER, PROTOCOL, tally
from rich.console import Console

import mir2bench
from mir2bench.attackers import make_attacker
from mir2bench.evaluation.limits import resident_gb
from mir2bench.evaluation.study import Study
from mir2bench.partition import Partition
from mir2bench.policies import build_scripted
from mir2bench.registration import spec

VARIANTS = (
    "mir2bench/Rendezvous5-adv1-v0",
    "mir2bench/RendezvousArena10-adv1-v0",
    "mir2bench/Skirmish-4m_vs_3m-adv1-v0",
    "mir2bench/MAMujoco-HalfCheetah2x3-adv1-v0",
)
SMALL = dataclasses.replace(BUDGET, train_steps=400)
COLUMNS = ("minutes", "resident_mb", "handles", "threads")


def step_environments(number: int) -> None:
    """Make, step and close each face of one variant."""
    variant = VARIANTS[number % len(VARIANTS)]
    with gymnasium.make(variant) as env:
        env.reset(seed=number)
        for _ in range(50):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
    many = gymnasium.make_vec(variant, num_envs=16)
    many.reset(seed=number)
    for _ in range(50):
        many.step(many.action_space.sample())
    many.close()
    par = mir2bench.parallel_env(variant)
    par.reset(seed=number)
    for _ in range(50):
        if not par.agents:
            par.reset()
        par.step({agent: par.action_space(agent).sample() for agent in par.agents})
    par.close()


def attack(number: int) -> None:
    """Train the adversary of one agent against a scripted team, for a moment."""
    world = spec(VARIANTS[0])
    team = build_scripted(next(iter(world.engine_class.scripted_teams.values())), world)
    make_attacker("learned", world).attack(world, team, Partition.of(5, [0]), seed=number, budget=4_000)


def study(number: int) -> None:
    """Run a study of a stub and of a real, small training, and every eighth time write its report."""
    from mir2bench.evaluation import study as module

    write = module.write_report
    if number % 8:
        module.write_report = lambda *_: None  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as out:
            plan = Study.resolve((DEFENDER, EAGER), variants=[tally().id], budget=SMALL, protocol=PROTOCOL, seeds=1)
            plan.run(Path(out) / "study", workers=1, console=Console(file=io.StringIO()))
    finally:
        module.write_report = write


WORK: tuple[Callable[[int], None], ...] = (step_environments, attack, study)


def look(started: float) -> list[float]:
    """Return one row of `COLUMNS`."""
    gc.collect()
    resident = 1000 * (resident_gb(os.getpid()) or 0.0)
    handles, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
    return [(time.monotonic() - started) / 60, resident, handles, threads]


def fit(minutes: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the slope of a straight line per hour, and its standard error."""
    hours = (minutes - minutes.mean()) / 60
    slope = (hours * values).sum() / (hours**2).sum()
    rest = values - values.mean() - slope * hours
    return float(slope), float(np.sqrt((rest**2).sum() / max(len(values) - 2, 1) / (hours**2).sum()))


def main(minutes: float = 60.0, file: str = "") -> int:
    """Return 0 if nothing grows."""
    mir2bench.register(tally())
    started, rows, number, told = time.monotonic(), [], 0, -1.0
    while not rows or rows[-1][0] < minutes:
        for work in WORK:
            work(number)
        number += 1
        rows.append(look(started))
        if rows[-1][0] - told >= minutes / 20:
            told = rows[-1][0]
            print(f"{told:7.2f} min: {rows[-1][1]:8.1f} MB, {rows[-1][2]} handles, {rows[-1][3]} threads", flush=True)
    if file:
        with Path(file).open("w", newline="") as target:
            csv.writer(target).writerows([COLUMNS, *rows])
    table = np.array(rows)
    table = table[table[:, 0] >= minutes / 2]
    grown = False
    for column, unit, least in ((1, "MB", 10.0), (2, "handles", 1.0), (3, "threads", 1.0)):
        slope, error = fit(table[:, 0], table[:, column])
        grown |= slope > max(least, 3 * error)
        print(f"{unit}: {slope:+.2f} +- {error:.2f} an hour, from {table[0, column]:.1f} to {table[-1, column]:.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{number} rounds in {rows[-1][0]:.1f} minutes, peak {peak:.0f} MB: {'it grows' if grown else 'flat'}")
    return int(grown)


if __name__ == "__main__":
    sys.exit(main(*(kind(word) for kind, word in zip((float, str), sys.argv[1:], strict=False))))
