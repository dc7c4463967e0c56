"""What an attack costs by which agent is adversarial, and whether agents differ (the paper's Supplementary)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from mir2bench.analysis.options import StudyOptions
from mir2bench.analysis.output import Output, drawing
from mir2bench.analysis.studies import (
    Finished,
    as_text,
    attackable,
    budget_of,
    cells,
    draw_estimates,
    estimate,
    open_study,
    run_study,
)
from mir2bench.errors import ConfigError, StudyError
from mir2bench.evaluation.figures import GREY, MARKERS, PALETTE, arm_label
from mir2bench.evaluation.outcomes import Outcome
from mir2bench.evaluation.protocol import CLEAN, ROBUST, WORST
from mir2bench.evaluation.scores import select
from mir2bench.evaluation.study import Study

DESCRIPTION = """Attack results of each agent, from a finished study or one that is run now.

Examples:
  python -m mir2bench.analyze per-agent --study runs/comparison
  python -m mir2bench.analyze per-agent --algo maddpg mir2 --budget standard --protocol suite-v1
  python -m mir2bench.analyze per-agent --policy baselines/mir2/Rendezvous10-adv1-v0/seed0"""


@dataclass(frozen=True)
class Options(StudyOptions):
    """Which results."""

    env: str | None = None  # type: ignore[assignment]
    """Variant; the default is that of --study or of the policies, else Rendezvous10-adv1-v0."""
    study: Path | None = None
    """Folder of a finished study; without it one is run."""
    algo: tuple[str, ...] = ()
    """Defenders to train. Without --study and --policy the default is mir2."""
    policy: tuple[Path, ...] = ()
    """Policy bundles; bundles that differ in their seed alone count as one defender."""
    protocol: str = "paper-v1"
    """Attackers and partitions."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Settings that differ from the defenders' defaults; ALGORITHM.KEY=VALUE for one alone."""


def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Make the tables that the options describe; return 1 if jobs failed."""
    if options.study is not None:
        finished = open_study(options.study)
        variant = choose_variant(finished, options)
        output = Output("per-agent", options)
    else:
        study = resolve(options)
        (variant,) = (v.id for v in study.variants)
        output = Output("per-agent", options)
        finished = run_study(study, output)

    outcomes = [outcome for outcome in finished.outcomes(variant) if outcome.arms]
    if not outcomes:
        raise StudyError(f"no attack on {variant} has a result, so there is nothing to tell of its agents.")
    table = by_agent(outcomes)
    spread = differences(outcomes, select(finished.scores, variant=variant))
    output.table("per-agent-cells", cells(outcomes))
    output.table("per-agent", table)
    output.table("per-agent-differences", spread)
    output.figure("per-agent", draw(outcomes, table, finished.headline))
    headline = select(table, arm=finished.headline)
    output.show(
        as_text(headline, "agent", "defender"), f"{variant}: {arm_label(finished.headline)}, by adversarial agent"
    )
    output.show(select(spread, arm=finished.headline).drop(columns="arm"), "How much agents differ")
    output.summary(
        {
            "variant": variant,
            "headline": finished.headline,
            "results": table.to_dict("records"),
            "differences": spread.to_dict("records"),
        }
    )
    return finished.status()


def resolve(options: Options) -> Study:
    """Return the study to run.

    Raises:
        UnknownNameError, ConfigError, PolicyError: what was named does not exist or does not fit.
    """
    study = Study.resolve(
        options.algo,
        variants=() if options.env is None else (options.env,),
        policies=options.policy,
        budget=budget_of(options),
        protocol=options.protocol,
        settings=options.settings,
    )
    if len(study.variants) > 1:  # those of the policies
        names = ", ".join(variant.id for variant in study.variants)
        raise ConfigError(f"the policies belong to several variants: {names}. Choose one with --env.")
    for variant in study.variants:
        attackable(variant.id)
    return study


def choose_variant(finished: Finished, options: Options) -> str:
    """Return the id of the variant that `options.env` names, or of the only one with adversaries.

    Raises:
        ConfigError: there is none or more than one, or an option speaks of a study that is yet to be run.
    """
    for name in ("algo", "policy", "settings", "seeds", "resume"):
        if getattr(options, name):
            flag = "set" if name == "settings" else name
            raise ConfigError(f"--{flag} has no meaning with --study, which was done already. Leave out one of them.")
    ids = [v["id"] for v in finished.summary["study"]["variants"] if v["n_adversaries"]]
    wanted = [i for i in ids if options.env is None or options.env in (i, i.rpartition("/")[2])]
    if len(wanted) != 1:
        raise ConfigError(
            f"{options.study} has {', '.join(ids) or 'no variant'} with adversaries. "
            + ("Choose one with --env." if ids else "There is nobody whose attack could be told.")
        )
    return wanted[0]


def by_agent(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row per (defender, arm, agent): the mean return when this agent is adversarial.

    With several adversaries it is the mean over the attacked partitions that the agent is part of.

    Columns defender, arm, agent, mean, low, high (95% interval over seeds, NaN for one seed), over, seeds, partitions
    (how many the agent is part of).
    """
    rows = []
    for outcome in outcomes:
        for arm in outcome.arms:
            grid = outcome.whole(arm)
            for agent in range(len(outcome.phis[0])):
                own: Any = grid[[phi for phi in grid.columns if phi[agent] == "1"]]
                if own.size:
                    name = {"defender": outcome.defender, "arm": arm, "agent": agent}
                    values = own.mean(axis=1).to_numpy()[:, None]
                    rows.append({**name, **estimate(values), "seeds": len(own), "partitions": own.shape[1]})
    return pd.DataFrame(rows)


def differences(outcomes: Sequence[Outcome], scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (defender, arm): how much results differ by who is adversarial.

    All teams play the same evaluation episodes, in which some agents start in better places than others. That must not
    pass for a difference between agents; so the episodes are a factor beside the seeds, and `f` compares agents with
    what both of them explain. With several adversaries, read "partition" for "agent".

    Columns defender, arm, range (between the best and the worst agent of a team, mean over seeds), and those of
    `variance`, NaN where there is one seed, episode or agent only.

    Args:
        outcomes: of one variant.
        scores: its episodes; see `scores.COLUMNS`.
    """
    rows = []
    for outcome in outcomes:
        own = select(scores, defender=outcome.defender).fillna({"attacker_seed": -1})
        for arm, table in outcome.arms.items():
            matrix = outcome.matrix(arm)
            spread = float(np.ptp(matrix, axis=1).mean()) if matrix.size else np.nan
            episodes = _episodes(table, own, outcome.whole(arm))
            rows.append({"defender": outcome.defender, "arm": arm, "range": spread, **variance(episodes)})
    return pd.DataFrame(rows)


def _episodes(table: pd.DataFrame, scores: pd.DataFrame, whole: pd.DataFrame) -> np.ndarray:
    """Return the returns (S, E, P) behind the cells of `whole`, against the attackers that `table` names."""
    attackers = table.reset_index()[["defender_seed", "phi", "attacker", "attacker_seed"]]
    played = attackers.merge(scores, how="left")
    grid: Any = played.pivot(index=["defender_seed", "episode"], columns="phi", values="return")
    grid = grid.loc[list(whole.index), list(whole.columns)]
    return grid.to_numpy(dtype=np.float64).reshape(len(whole), -1, whole.shape[1])


def variance(returns: np.ndarray) -> dict[str, float]:
    """Take the returns (S, E, P) of S teams in E episodes apart, for P agents, all three as random factors.

    Returns:
        sd_agents: standard deviation between agents that are better or worse in all teams and episodes alike.
        sd_teams: between teams.
        sd_agents_by_team: between agents of one team, beyond the former two.
        sd_agents_by_episode: between agents in one episode, in all teams alike: where they start.
        f, p: the quasi-F of agents, (MS_a + MS_sea) / (MS_sa + MS_ea) with Satterthwaite's degrees of freedom (Cochran
            1951), and the probability of one as large if agents did not differ.
    """
    from scipy import stats

    names = ("sd_agents", "sd_teams", "sd_agents_by_team", "sd_agents_by_episode", "f", "p")
    if min(returns.shape) < 2:
        return dict.fromkeys(names, float("nan"))
    s, e, p = returns.shape
    rest = returns - returns.mean()
    ms, df = {}, {}
    for kept in ("s", "e", "a", "se", "sa", "ea", "sea"):  # main effects first, so that what is left shrinks
        axes = tuple(i for i, name in enumerate("sea") if name not in kept)
        effect = rest.mean(axis=axes, keepdims=True)
        rest = rest - effect
        df[kept] = int(np.prod([n - 1 for n, name in zip((s, e, p), "sea", strict=True) if name in kept]))
        ms[kept] = float((effect**2).sum() * returns.size / effect.size / df[kept])

    def among(*kinds: str) -> tuple[float, float]:
        """Return the sum of mean squares and its degrees of freedom."""
        total = sum(ms[kind] for kind in kinds)
        return total, total**2 / sum(ms[kind] ** 2 / df[kind] for kind in kinds) if total else 1.0

    def deviation(square: float, size: int) -> float:
        return max(0.0, square / size) ** 0.5

    (upper, upper_df), (lower, lower_df) = among("a", "sea"), among("sa", "ea")
    f = upper / lower if lower else float("inf") if upper else float("nan")
    values = (
        deviation(ms["a"] - ms["sa"] - ms["ea"] + ms["sea"], s * e),
        deviation(ms["s"] - ms["sa"] - ms["se"] + ms["sea"], e * p),
        deviation(ms["sa"] - ms["sea"], e),
        deviation(ms["ea"] - ms["sea"], s),
        f,
        float(stats.f.sf(f, upper_df, lower_df)),
    )
    return dict(zip(names, values, strict=True))


def draw(outcomes: Sequence[Outcome], table: pd.DataFrame, headline: str) -> Figure:
    """Draw two panels for each defender: the headline arm by agent, with interval and seeds, and every attacker's mean.

    Args:
        outcomes: for the seeds and the clean arm.
        table: of `by_agent`.
        headline: the arm of the left panels.
    """
    agents = range(int(table["agent"].max()) + 1)
    arms = [arm for arm in dict.fromkeys(table["arm"]) if arm not in (ROBUST, WORST)]
    with drawing():
        figure = Figure(figsize=(10.5, 1.1 + 2.5 * len(outcomes)))
        panels = figure.subplots(len(outcomes), 2, squeeze=False, sharex=True, sharey="col")
        for (left, right), outcome in zip(panels, outcomes, strict=True):
            rows = select(table, defender=outcome.defender)
            grid: Any = outcome.whole(headline)
            for agent in agents:
                own = grid[[phi for phi in grid.columns if phi[agent] == "1"]].mean(axis=1)
                left.plot([agent + 0.2] * len(own), own, "_", color=GREY, label="one training seed")
            line = select(rows, arm=headline)
            draw_estimates(left, line["agent"] - 0.1, line, fmt="o", color=PALETTE[1], label=arm_label(headline))
            for j, arm in enumerate(arms):
                line = select(rows, arm=arm)
                place = line["agent"] + (j - (len(arms) - 1) / 2) * min(0.14, 0.8 / len(arms))
                marker, color = MARKERS[j % len(MARKERS)], PALETTE[(j + 1) % len(PALETTE)]
                right.plot(place, line["mean"], marker, color=color, markersize=4.5, label=arm)
            clean = outcome.matrix(CLEAN)
            right.axhline(clean.mean(), color=PALETTE[0], linestyle="--", linewidth=1.2, label=arm_label(CLEAN))
            for panel in (left, right):
                for edge in range(1, len(agents)):
                    panel.axvline(edge - 0.5, color="#d0d0d0", linewidth=0.8)
                panel.set_title(outcome.defender, fontsize=9.5)
                panel.grid(axis="x", visible=False)
                panel.set_xlim(-0.5, len(agents) - 0.5)
                panel.set_xticks(agents[:: max(1, len(agents) // 10)])
            left.set_ylabel("team return per episode")
        handles: dict[str, Any] = {}
        for panel in panels.flat:
            shown, labels = panel.get_legend_handles_labels()
            handles |= dict(zip(labels, shown, strict=True))
        for panel in panels[-1]:
            panel.set_xlabel("adversarial agent")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8.5)
    return figure
