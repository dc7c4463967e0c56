"""How far an attack moves what the defenders' networks make of the game (paper, Fig. 5e).

The representation is the actor's last hidden layer (the GRU's state in recurrent actors). It is recorded for the same
agents, the defenders, in cooperative and in attacked episodes of the same evaluation seeds. t-SNE shows it, and numbers
that need no picture measure it. The same numbers for what the agents saw stand beside them: a representation moves
already because the observations do.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from mir2bench.analysis.discrepancy import Discrepancy, compare
from mir2bench.analysis.matches import Matches, MatchOptions, Team, load_matches
from mir2bench.analysis.output import Output, drawing
from mir2bench.analysis.representations import Cells, Recording, check_network, draw_cells, record
from mir2bench.errors import ConfigError
from mir2bench.evaluation.figures import GREY, MARKERS, PALETTE
from mir2bench.evaluation.protocol import evaluation_seeds
from mir2bench.partition import Partition

DESCRIPTION = """How far an attack moves the actors' representations, as t-SNE and as numbers (paper, Fig. 5e).

Examples:
  python -m mir2bench.analyze embedding --policy baselines/maddpg/Rendezvous10-adv1-v0/seed0 --phi 3 --attacker flee
  python -m mir2bench.analyze embedding --policy runs/maddpg/bundle runs/mir2/bundle --phi 3 --budget standard
  python -m mir2bench.analyze embedding --policy runs/mir2/bundle --adversary runs/attack-3/bundle --episodes 64"""

CLEAN, ATTACKED, AGAIN = "clean", "attacked", "clean again"
FEATURES, OBSERVATIONS = "representations", "observations"
_PER_ROW = 3  # panels
_LAYERS = 8  # of points in a panel


@dataclass(frozen=True)
class Options(MatchOptions):
    """Whose representations, and how much of them."""

    episodes: int = 32
    """Evaluation episodes, of both kinds."""
    points: int = 32
    """(step, defender) pairs that are drawn from each episode: the points of t-SNE and of all numbers."""
    perplexity: float = 30.0
    """Of t-SNE: about how many neighbors a point has."""


@dataclass(frozen=True)
class Embedding:
    """What was found about one team.

    Attributes:
        team: its name.
        shifts: (what, against) -> discrepancy from the clean episodes.
        points: one row per point: policy, arm, seed, step, agent, x, y.
        returns: arm -> mean team return.
    """

    team: str
    shifts: Mapping[tuple[str, str], Discrepancy]
    points: pd.DataFrame
    returns: Mapping[str, float]


def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Do the analysis and write what it found."""
    check_options(options)
    matches = load_matches(options)
    for team in matches.teams:
        check_network(team.policy, team.name)
    output = Output("embedding", options)
    found = [embed(matches, team, options) for team in matches.teams]
    table = tabulate(found)
    output.table("shift", table)
    output.table("points", pd.concat([e.points for e in found], ignore_index=True))
    with drawing():
        output.figure("embedding", draw_points(found, matches, options))
        output.figure("shift", draw_shifts(found, matches))
    output.show(shown(table), f"Shift of the defenders under {matches.attacker}, phi {matches.phi.label}")
    output.summary({**matches.to_dict(), "shift": table.to_dict("records"), **sampling(options)})


def check_options(options: Options) -> None:
    """Raise `ConfigError` for numbers out of range, before anything is trained."""
    if options.episodes < 2:
        raise ConfigError(f"--episodes must be 2 or more, since episodes are compared, not {options.episodes}.")
    if options.points < 1:
        raise ConfigError(f"--points must be 1 or more, but it is {options.points}.")
    check_perplexity(options.perplexity, 2 * options.episodes * options.points)


def check_perplexity(perplexity: float, points: int) -> None:
    """Raise `ConfigError` unless t-SNE can have this perplexity with so many points."""
    if not 1 <= perplexity < points:
        raise ConfigError(
            f"--perplexity must be 1 or more and below the number of points, here {points}, not {perplexity:g}."
        )


def sampling(options: Options) -> dict[str, Any]:
    """Return what determines the points."""
    return {"episodes": options.episodes, "points_per_episode": options.points, "perplexity": options.perplexity}


def embed(matches: Matches, team: Team, options: Options) -> Embedding:
    """Record, measure and embed one team."""
    adversary = matches.attack(team)
    n = matches.variant.n_agents
    defenders = [agent for agent in range(n) if agent not in matches.phi.adversaries]
    seeds = evaluation_seeds(2 * options.episodes)
    first, others = seeds[: options.episodes], seeds[options.episodes :]

    def play(phi: Partition, against: Any, chosen: list[int]) -> Recording:
        return record(matches.variant, team.policy, team.name, defenders, phi, against, chosen)

    clean = play(Partition.of(n), None, first)
    arms = {ATTACKED: play(matches.phi, adversary, first), AGAIN: play(Partition.of(n), None, others)}
    shifts: dict[tuple[str, str], Discrepancy] = {}
    points = pd.DataFrame()
    for arm, recording in arms.items():
        cells = draw_cells(clean, recording, options.points, np.random.default_rng(options.seed))
        for what in (FEATURES, OBSERVATIONS):
            x, y = (cells.take(r.features if what == FEATURES else r.obs) for r in (clean, recording))
            shifts[what, arm] = compare(x, y, seed=options.seed)
            if (what, arm) == (FEATURES, ATTACKED):
                points = _points(team.name, x, y, cells, defenders, first, options)
    returns = {CLEAN: float(clean.returns.mean()), ATTACKED: float(arms[ATTACKED].returns.mean())}
    return Embedding(team.name, shifts, points, returns)


def _points(
    name: str, x: np.ndarray, y: np.ndarray, cells: Cells, defenders: list[int], seeds: list[int], options: Options
) -> pd.DataFrame:
    both = np.concatenate([x, y]).reshape(-1, x.shape[-1])
    check_perplexity(options.perplexity, len(both))  # short episodes give fewer points than were asked for
    plane = tsne(both, options.perplexity, options.seed)
    half = pd.DataFrame(
        {
            "seed": np.repeat(seeds, cells.steps.shape[1]),
            "step": cells.steps.ravel(),
            "agent": np.array(defenders)[cells.agents.ravel()],
        }
    )
    table = pd.concat([half.assign(arm=CLEAN), half.assign(arm=ATTACKED)], ignore_index=True)
    table.insert(0, "policy", name)
    return table.assign(x=plane[:, 0], y=plane[:, 1])


def tsne(points: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Embed points (P, D) in the plane, (P, 2) float32; the same seed gives the same picture.

    Source: van der Maaten and Hinton 2008, in scikit-learn's version, started from the principal components.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    model = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
    # One thread: sums in another order would end in another picture.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # points that all coincide have no principal components
        return model.fit_transform(np.ascontiguousarray(points, dtype=np.float32))


# --- tables and figures ---


def tabulate(found: list[Embedding]) -> pd.DataFrame:
    """Return one row per team, thing measured and comparison."""
    rows = []
    for embedding in found:
        for (what, against), shift in embedding.shifts.items():
            (mmd_low, mmd_high), (frechet_low, frechet_high) = shift.mmd2_ci, shift.frechet_ci
            row = {"policy": embedding.team, "of": what, "against": against}
            row |= {"mmd2": shift.mmd2, "mmd2_low": mmd_low, "mmd2_high": mmd_high, "p_value": shift.p_value}
            row |= {"frechet": shift.frechet, "frechet_low": frechet_low, "frechet_high": frechet_high}
            row |= {"bandwidth": shift.bandwidth, "clean_return": embedding.returns[CLEAN]}
            rows.append(row | {"attacked_return": embedding.returns[ATTACKED]})
    return pd.DataFrame(rows)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is printed."""
    return pd.DataFrame(
        {
            "policy": table["policy"],
            "of": table["of"],
            "clean against": table["against"],
            "MMD^2": [_with_interval(*v) for v in table[["mmd2", "mmd2_low", "mmd2_high"]].to_numpy()],
            "p": [f"{p:.3f}" for p in table["p_value"]],
            "Frechet / variance": [
                _with_interval(*v) for v in table[["frechet", "frechet_low", "frechet_high"]].to_numpy()
            ],
        }
    )


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def draw_points(found: list[Embedding], matches: Matches, options: Options) -> Figure:
    """One panel of t-SNE for each team, cooperative against attacked, as in the paper's Fig. 5e."""
    columns = 2 if len(found) == 4 else min(len(found), _PER_ROW)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(max(3.6 * columns, 4.6), 3.7 * rows + 0.7))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    looks = ((CLEAN, PALETTE[0], MARKERS[0]), (ATTACKED, PALETTE[1], MARKERS[2]))
    for axes, embedding in zip(panels, found, strict=False):
        for layer, (arm, color, marker) in itertools.product(range(_LAYERS), looks):
            # In thin layers that alternate, so that neither kind hides the other.
            part = embedding.points[embedding.points["arm"] == arm].iloc[layer::_LAYERS]
            label = None if layer else arm
            axes.scatter(part["x"], part["y"], s=7, c=color, marker=marker, alpha=0.55, linewidths=0, label=label)
        shift = embedding.shifts[FEATURES, ATTACKED]
        axes.set_title(f"{embedding.team}\nMMD² {shift.mmd2:.3f}, Fréchet {shift.frechet:.2f}", fontsize=9.5)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="#cccccc")
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=2.5)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
    figure.suptitle(
        f"Defenders' representations, t-SNE (perplexity {options.perplexity:g})\n{matches.attacker}, "
        f"adversary {matches.phi.label}",
        fontsize=9.5,
        color=GREY,
    )
    return figure


def draw_shifts(found: list[Embedding], matches: Matches) -> Figure:
    """Intervals of both measures for each team: representations and observations, attacked and clean again."""
    figure = Figure(figsize=(8.2, 1.3 + 0.75 * len(found)))
    panels = figure.subplots(1, 2, sharey=True)
    looks = {FEATURES: (PALETTE[1], MARKERS[0]), OBSERVATIONS: (PALETTE[0], MARKERS[1])}
    for axes, measure in zip(panels, ("mmd2", "frechet"), strict=True):
        for row, embedding in enumerate(found):
            for offset, (what, (color, marker)) in zip((-0.14, 0.14), looks.items(), strict=True):
                for arm in (ATTACKED, AGAIN):
                    shift = dataclasses.asdict(embedding.shifts[what, arm])
                    value, (low, high) = shift[measure], shift[f"{measure}_ci"]
                    inside = color if arm == ATTACKED else "white"
                    axes.plot([low, high], [row + offset] * 2, color=color, linewidth=1.6)
                    label = f"{what}, {arm}" if row == 0 else None
                    axes.plot(
                        value, row + offset, marker, color=color, markerfacecolor=inside, label=label, linestyle=""
                    )
        axes.axvline(0.0, color=GREY, linewidth=0.8)
    panels[0].set(xlabel="MMD² (Gaussian kernel, unbiased)", yticks=range(len(found)), ylim=(len(found) - 0.5, -0.5))
    panels[0].set_yticklabels([e.team for e in found])
    panels[1].set_xlabel("Fréchet distance² / clean variance")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle(
        f"Distance of the defenders from clean episodes under {matches.attacker}, adversary {matches.phi.label}\n95% "
        "intervals over episodes",
        fontsize=9.5,
        color=GREY,
    )
    return figure
