"""What teams do, alone and under attack: trajectories as data, pictures and film (paper, Fig. 5 and 7).

Clean and attacked episodes start alike. A family draws trajectories in its own way, where it has one; elsewhere the
frames of the first, the middle and the last moment take their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from mir2bench.analysis.matches import Matches, MatchOptions, Team, load_matches
from mir2bench.analysis.output import Output, drawing
from mir2bench.engines.base import Worlds
from mir2bench.errors import ConfigError
from mir2bench.evaluation.figures import GREY
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import Policy
from mir2bench.views.common import DrawTrajectories, load_drawing, load_trajectories

DESCRIPTION = """Trajectories of defenders and adversaries, clean and attacked side by side (paper, Fig. 5 and 7).

Examples:
  python -m mir2bench.analyze behavior --policy baselines/mir2/Rendezvous10-adv1-v0/seed0 --phi 3 --attacker flee --gif
  python -m mir2bench.analyze behavior --policy runs/maddpg/bundle runs/mir2/bundle --phi 3 --budget standard
  python -m mir2bench.analyze behavior --policy scripted:centroid --env Rendezvous10-adv2-v0 --attacker dodge"""

CLEAN, ATTACKED = "clean", "attacked"
_FPS = 20


@dataclass(frozen=True)
class Options(MatchOptions):
    """Whose behavior, and in which episodes."""

    seed_of_episode: tuple[int, ...] = (0,)
    """Seeds of the episodes; each determines a start, and has its own figure."""
    gif: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write a film of each policy and episode, clean beside attacked."""
    every: int = 2
    """Keep every n-th step of a film, and the last."""


@dataclass(frozen=True)
class Episode:
    """One episode from start to end.

    Attributes:
        team, arm, seed: of which team, "clean" or "attacked", and its start.
        phi: (N,) int8.
        history: T + 1 snapshots.
        rewards: (T,) the team's rewards.
    """

    team: str
    arm: str
    seed: int
    phi: np.ndarray
    history: list[dict[str, np.ndarray]]
    rewards: np.ndarray


def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Do the analysis and write what it found."""
    check_options(options)
    matches = load_matches(options)
    output = Output("behavior", options)
    episodes = list(chain.from_iterable(watch(matches, team, options.seed_of_episode) for team in matches.teams))
    output.table("trajectories", pd.concat([trajectories(e) for e in episodes], ignore_index=True))
    output.table("steps", pd.concat([steps(e) for e in episodes], ignore_index=True))
    with drawing():
        for seed in options.seed_of_episode:
            output.figure(f"behavior-episode{seed}", draw_episodes([e for e in episodes if e.seed == seed], matches))
    if options.gif:
        for clean, attacked in zip(episodes[::2], episodes[1::2], strict=True):
            stem = f"{re.sub('[^A-Za-z0-9]+', '-', clean.team).strip('-')}-episode{clean.seed}"
            output.film(stem, frames((clean, attacked), matches, options.every), _FPS)
    table = tabulate(episodes)
    output.show(table, f"Episodes under {matches.attacker}, phi {matches.phi.label}")
    output.summary({**matches.to_dict(), "episodes": table.to_dict("records")})


def check_options(options: Options) -> None:
    """Raise `ConfigError` for what is wrong before anything is trained."""
    if not options.seed_of_episode:
        raise ConfigError("--seed-of-episode names no seed. Give one or more, such as 0 1 2.")
    if min(options.seed_of_episode) < 0:
        raise ConfigError(f"--seed-of-episode must hold numbers of 0 or more, not {min(options.seed_of_episode)}.")
    if len(set(options.seed_of_episode)) < len(options.seed_of_episode):
        raise ConfigError(f"--seed-of-episode names a seed twice: {', '.join(map(str, options.seed_of_episode))}.")
    if options.every < 1:
        raise ConfigError(f"--every must be 1 or more, but it is {options.every}.")


def watch(matches: Matches, team: Team, seeds: Sequence[int]) -> list[Episode]:
    """Play all episodes of one team: for each seed the clean one, then the attacked one."""
    n = matches.variant.n_agents
    clean = play(matches, team, CLEAN, Partition.of(n), None, seeds)
    attacked = play(matches, team, ATTACKED, matches.phi, matches.attack(team), seeds)
    return list(chain.from_iterable(zip(clean, attacked, strict=True)))


def play(
    matches: Matches, team: Team, arm: str, phi: Partition, adversary: Policy | None, seeds: Sequence[int]
) -> list[Episode]:
    """Play one episode per seed and keep every moment."""
    histories: list[list[dict[str, np.ndarray]]] = [[] for _ in seeds]
    rewards: list[np.ndarray] = []

    def keep(worlds: Worlds) -> None:
        rewards.append(worlds.engine.reward.copy())
        for world, history in enumerate(histories):
            history.append(worlds.engine.snapshot(world))

    lengths = rollout(matches.variant, team.policy, phi, adversary, seeds, team_name=team.name, watch=keep).lengths
    by_world = np.stack(rewards[1:], axis=1)  # the first was there before any step
    # A world that ended early plays on as another episode, which does not belong here.
    return [
        Episode(team.name, arm, seed, phi.to_array(), history[: length + 1], earned[:length])
        for seed, history, earned, length in zip(seeds, histories, by_world, lengths.tolist(), strict=True)
    ]


# --- data ---


def trajectories(episode: Episode) -> pd.DataFrame:
    """Return one row per step and agent, with the agent's numbers of the engine's snapshots."""
    moments, n = len(episode.history), len(episode.phi)
    columns: dict[str, Any] = {
        "policy": episode.team,
        "arm": episode.arm,
        "seed": episode.seed,
        "step": np.repeat(np.arange(moments), n),
        "agent": np.tile(np.arange(n), moments),
        "phi": np.tile(episode.phi, moments),
    }
    for name, values in _arrays(episode, of_agents=True):
        columns |= _flatten(name, values.reshape(moments * n, -1))
    return pd.DataFrame(columns)


def steps(episode: Episode) -> pd.DataFrame:
    """Return one row per step: the team's reward (none at the start), and what snapshots hold beside the agents."""
    columns: dict[str, Any] = {
        "policy": episode.team,
        "arm": episode.arm,
        "seed": episode.seed,
        "step": np.arange(len(episode.history)),
        "reward": np.concatenate([[np.nan], episode.rewards]),
    }
    for name, values in _arrays(episode, of_agents=False):
        columns |= _flatten(name, values.reshape(len(values), -1))
    return pd.DataFrame(columns)


def _arrays(episode: Episode, *, of_agents: bool) -> Iterable[tuple[str, np.ndarray]]:
    """Yield the arrays of a snapshot over time, (T + 1, ...): those with a row for each agent, or the others."""
    for name in episode.history[0]:
        values = np.stack([np.asarray(snapshot[name]) for snapshot in episode.history])
        if (values.ndim > 1 and values.shape[1] == len(episode.phi)) == of_agents:
            yield name, values


def _flatten(name: str, values: np.ndarray) -> Mapping[str, np.ndarray]:
    if values.shape[1] == 1:
        return {name: values[:, 0]}
    return {f"{name}_{i}": values[:, i] for i in range(values.shape[1])}


def tabulate(episodes: Sequence[Episode]) -> pd.DataFrame:
    """Return one row per episode."""
    return pd.DataFrame(
        {
            "policy": [e.team for e in episodes],
            "seed": [e.seed for e in episodes],
            "arm": [e.arm for e in episodes],
            "team return": [float(e.rewards.sum()) for e in episodes],
            "steps": [len(e.rewards) for e in episodes],
        }
    )


# --- pictures ---


def draw_episodes(episodes: Sequence[Episode], matches: Matches) -> Figure:
    """Draw the episodes of one seed: a row for each team, clean on the left and attacked on the right."""
    draw = load_trajectories(matches.variant.engine_class.drawing)
    arms = [episodes[i : i + 2] for i in range(0, len(episodes), 2)]
    return _draw_frames(arms, matches) if draw is None else _draw_trajectories(arms, matches, draw)


def _draw_trajectories(rows: Sequence[Sequence[Episode]], matches: Matches, draw: DrawTrajectories) -> Figure:
    figure = Figure(figsize=(7.2, 3.6 * len(rows) + 0.7))
    panels = figure.subplots(len(rows), 2, squeeze=False, sharex=True, sharey=True)
    for axes, episode in zip(panels.ravel(), chain.from_iterable(rows), strict=True):
        draw(episode.history, episode.phi, matches.variant, axes)
        axes.set_title(_title(episode), fontsize=9.5)
        axes.label_outer()
    handles, labels = panels[0, 1].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    figure.suptitle(_heading(rows, matches), fontsize=9.5, color=GREY)
    return figure


def _draw_frames(rows: Sequence[Sequence[Episode]], matches: Matches) -> Figure:
    """Show the frames of three moments, for families that do not draw trajectories: a line of them for each episode."""
    draw = load_drawing(matches.variant.engine_class.drawing)
    lines = list(chain.from_iterable(rows))
    figure = Figure(figsize=(7.8, 2.9 * len(lines) + 0.5))
    panels = figure.subplots(len(lines), 3, squeeze=False)
    for line, episode in zip(panels, lines, strict=True):
        last = len(episode.history) - 1
        for axes, step in zip(line, (0, last // 2, last), strict=True):
            axes.imshow(draw(episode.history[: step + 1], episode.phi, matches.variant))
            axes.set_title(f"step {step}", fontsize=8.5)
            axes.set_axis_off()
        line[1].set_title(f"{_title(episode)}\nstep {last // 2}", fontsize=9.5)
    figure.suptitle(_heading(rows, matches), fontsize=9.5, color=GREY)
    return figure


def _title(episode: Episode) -> str:
    return f"{episode.team}, {episode.arm}: {episode.rewards.sum():.1f}"


def _heading(rows: Sequence[Sequence[Episode]], matches: Matches) -> str:
    return f"Episode {rows[0][0].seed}: {matches.attacker}, adversary {matches.phi.label}; team returns"


def frames(pair: Sequence[Episode], matches: Matches, every: int) -> list[np.ndarray]:
    """Return a film of a clean and an attacked episode side by side; the shorter one waits in its last frame."""
    draw = load_drawing(matches.variant.engine_class.drawing)
    last = max(len(episode.history) for episode in pair) - 1
    return [
        np.concatenate([draw(e.history[: step + 1], e.phi, matches.variant) for e in pair], axis=1)
        for step in sorted({*range(0, last, every), last})
    ]
