"""Does a defense hold against the adversary it was trained with alone? (The paper's text on ROM-Q.)

Every team meets three adversaries beside the scripted ones: the network that it was trained against, where its training
had one (adversarial training); the greedy adversary under its own critic, which is what max-min methods such as ROM-Q
prepare for; and a fresh one, trained against the finished team. A team that holds against the former and not against
the last has fitted its adversary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from mir2bench.analysis.options import StudyOptions
from mir2bench.analysis.output import Output, drawing, short_id
from mir2bench.analysis.studies import (
    as_text,
    attackable,
    budget_of,
    cells,
    draw_estimates,
    estimate,
    estimates,
    run_study,
)
from mir2bench.errors import NotApplicableError, PolicyError
from mir2bench.evaluation.contenders import Contender, resolve_contenders
from mir2bench.evaluation.figures import PALETTE, draw_anchors
from mir2bench.evaluation.outcomes import Outcome
from mir2bench.evaluation.protocol import CLEAN, Protocol
from mir2bench.evaluation.scores import select
from mir2bench.evaluation.study import Study
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Callback
from mir2bench.partition import Partition
from mir2bench.policies import Policy, load_policy
from mir2bench.registration import VariantSpec

DESCRIPTION = """Attack teams with the adversary they were trained against, and with a fresh one.

Examples:
  python -m mir2bench.analyze overfit --budget standard --out runs/overfit
  python -m mir2bench.analyze overfit --algo maddpg m3ddpg romq romax advtrain --seeds 3
  python -m mir2bench.analyze overfit --policy runs/maddpg/bundle runs/advtrain/bundle"""

TRAINING, GREEDY, FRESH = "training", "greedy", "learned"
ARMS = {
    CLEAN: "no adversary",
    TRAINING: "training adversary (network)",
    GREEDY: "greedy under the team's own critic",
    FRESH: "fresh learned adversary",
}
"""Arms that are compared, and how figures call them."""


@dataclass(frozen=True)
class Options(StudyOptions):
    """Which teams."""

    algo: tuple[str, ...] = ()
    """Defenders to train. Without --policy the default is maddpg, romq and advtrain."""
    policy: tuple[Path, ...] = ()
    """Policy bundles; bundles that differ in their seed alone count as one defender."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Settings that differ from the defenders' defaults; ALGORITHM.KEY=VALUE for one alone."""


class TrainingAdversary:
    """The attacker that plays the network a team was trained against; there is nothing to train."""

    trains: ClassVar[bool] = False

    def attack(
        self,
        variant: VariantSpec,
        victim: Policy,
        phi: Partition,
        *,
        seed: int,
        budget: int,
        callback: Callback | None = None,
    ) -> Policy:
        """Return the adversary that the team ships; seed and budget do not matter.

        Raises:
            NotApplicableError: it ships none.
        """
        adversary = getattr(victim, "training_adversary", None)
        if adversary is None:
            raise NotApplicableError("the team ships no adversary that it was trained against.")
        return NetworkPolicy(adversary.actor, phi.weight)


_TRAINING = f"{__name__}:TrainingAdversary"
PROTOCOL = Protocol("overfit", trained=(FRESH,), sampled_partitions=5, white_box=(GREEDY, _TRAINING))


def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Make the comparison that the options describe; return 1 if jobs failed."""
    variant = attackable(options.env)
    budget = budget_of(options)
    names = options.algo or (() if options.policy else ("maddpg", "romq", "advtrain"))
    contenders = resolve_contenders(names, options.policy, options.settings, range(budget.defender_seeds), [variant])
    check_trained(contenders, variant)
    output = Output("overfit", options)
    finished = run_study(Study((variant,), tuple(contenders), PROTOCOL, budget), output)

    finished = finished.renamed({_TRAINING: TRAINING})
    outcomes = finished.outcomes(variant.id)
    table, differences = estimates(outcomes, tuple(ARMS)), gaps(outcomes)
    output.table("overfit-cells", cells(outcomes))
    output.table("overfit", table)
    output.table("overfit-gaps", differences)
    output.figure("overfit", draw(table, variant))
    shown = table.replace({"arm": {FRESH: "fresh"}})
    output.show(as_text(shown, "defender", "arm"), f"{variant.id}: team return and 95% intervals")
    output.show(as_text(differences, "defender", "adversary"), "Return lost from a known adversary to the fresh one")
    output.summary({"results": table.to_dict("records"), "gaps": differences.to_dict("records")})
    return finished.status()


def check_trained(contenders: Sequence[Contender], variant: VariantSpec) -> None:
    """Refuse teams that have no adversary of their training; of defenders yet to be trained, that is not known.

    Raises:
        PolicyError: a scripted team, or a bundle with neither a critic nor a training adversary.
    """
    for contender in contenders:
        policies = [load_policy(path, variant) for path in contender.bundles]
        bare = [p for p in policies if not (getattr(p, "critic", None) or getattr(p, "training_adversary", None))]
        if contender.kind == "scripted" or bare:
            raise PolicyError(
                f"{contender.name} ships neither a critic nor an adversary that it was trained against, so there is no "
                "training adversary to compare with. Choose a team that was trained with one."
            )


def gaps(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row per (defender, known adversary): what the team loses from that one to the fresh one.

    Columns defender, adversary ("training" or "greedy"), mean (return under the known adversary minus that under the
    fresh one, paired by seed and partition), low, high and over (95% interval, see `studies.estimates`).
    """
    rows = []
    for outcome in outcomes:
        for arm in (TRAINING, GREEDY):
            pairs: Any = (outcome.grid(arm) - outcome.grid(FRESH)).dropna()
            if pairs.size:
                row = {"defender": outcome.defender, "adversary": arm}
                rows.append({**row, **estimate(pairs.to_numpy(dtype=np.float64))})
    return pd.DataFrame(rows, columns=pd.Index(("defender", "adversary", "mean", "low", "high", "over")))


def draw(table: pd.DataFrame, variant: VariantSpec) -> Figure:
    """Draw the arms of each defender as bars from the variant's floor.

    Args:
        table: columns defender, arm, mean, low, high.
        variant: gives floor and ceiling.
    """
    defenders = list(dict.fromkeys(table["defender"]))
    shown = [arm for arm in ARMS if arm in set(table["arm"])]
    floor, width = variant.floor.score, 0.84 / len(shown)
    with drawing():
        figure = Figure(figsize=(max(5.6, 1.4 + 1.7 * len(defenders)), 4.0))
        axes = figure.add_subplot()
        for j, arm in enumerate(shown):
            rows = select(table, arm=arm)
            places = [defenders.index(name) + (j - (len(shown) - 1) / 2) * width for name in rows["defender"]]
            bars: Any = {
                "color": PALETTE[j],
                "hatch": ("", "..", "xx", "//")[j],
                "edgecolor": "white",
                "label": ARMS[arm],
            }
            axes.bar(places, rows["mean"] - floor, width * 0.92, bottom=floor, **bars)
            draw_estimates(axes, places, rows, fmt="none", color="black")
        draw_anchors(axes, variant)
        axes.set_xticks(range(len(defenders)), defenders)
        axes.set_xlim(-0.6, len(defenders) - 0.4)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("team return per episode")
        axes.set_title(short_id(variant), fontsize=10)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    return figure
