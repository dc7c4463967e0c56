"""Does a defender keep every promise that mir2bench makes about defenders?"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from mir2bench.defenders import get_defender
from mir2bench.registration import VariantSpec
from mir2bench.testing import common
from mir2bench.testing.policies import alike, policy_problems, record, saving_problems


def check_defender(
    defender: str | type,
    variant: str | VariantSpec = "Rendezvous10-adv1-v0",
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    budget: int = 1_000,
) -> None:
    """Train a defender three times for a moment, and tell all that is wrong in one error.

    Checked are the class and its `Config`; that training keeps to its budget, reports its progress, leaves global
    state alone and is determined by its seed; and that the policy keeps the protocol, is decentralized, and comes back
    from a bundle as it was. How well the team plays is not looked at. A warning says if the seed makes no difference,
    or if no learning curve is reported.

    Args:
        defender: the class, its name, or "package.module:Class".
        variant: the world to train on; a spec that is given whole is registered.
        settings: fields of its `Config` that differ from the defaults.
        seed: the first of two training seeds.
        budget: environment steps of each training.

    Raises:
        ConformanceError: something is wrong; the message lists everything that was found.
        UnknownNameError, ConfigError: no such class, variant or setting.
    """
    variant = common.registered(variant)
    found: Any = get_defender(defender) if isinstance(defender, str) else defender
    name = f"The defender {getattr(found, '__name__', found)}"
    common.report(name, common.algorithm_problems(found, ("Config", "train")))
    made = common.settled(found, settings)
    recording = record(variant)
    problems: list[str] = []
    reports: list[Any] = []
    remarks: list[str] = []

    def train(seed: int, callback: Any = None) -> Any:
        """Return the policy; what is wrong joins the problems, and an exception ends the check."""
        with common.Trial(problems, "`train`") as trial:
            policy = made.train(variant, seed=seed, budget=budget, callback=callback)
        problems.extend(common.step_problems(trial.steps, budget, "`train`"))
        if trial.error is not None:
            common.report(name, problems, trial.error)
        return policy

    policy = train(seed, reports.append)
    problems += common.progress_problems(reports, budget)
    if not reports:
        problems.append("`train` never calls `callback`: report progress, the last time when the budget is used up.")
    elif getattr(reports[-1], "steps", budget) != budget:
        problems.append(
            f"the last report must name all {budget} steps of the budget, but it names {reports[-1].steps}."
        )
    trained = list(policy_problems(policy, recording))
    if not trained:
        config = dataclasses.asdict(made.config)
        problems += saving_problems(policy, recording, found.__name__, config, seed)
        if not alike(policy, train(seed), recording):
            problems.append(
                f"two trainings with seed {seed}, the first with a callback, give different policies: everything must "
                "be drawn from the seed, and reports must change nothing."
            )
        elif alike(policy, train(seed + 1), recording):
            remarks.append(f"gives one and the same policy for seeds {seed} and {seed + 1}.")
    if not any("greedy_return" in getattr(one, "metrics", ()) for one in reports):
        remarks.append('reports no "greedy_return", so no figure shows its learning curve.')
    common.report(name, problems + trained)
    for remark in remarks:
        warnings.warn(f"{name} {remark}", stacklevel=2)
