"""Return against one setting of a defender, in the manner of the paper's Fig. 9 (lambda of MIR2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

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
    estimates,
    run_study,
)
from mir2bench.errors import ConfigError, unknown_name
from mir2bench.evaluation.contenders import Contender, resolve_configs
from mir2bench.evaluation.figures import MARKERS, PALETTE, arm_label, draw_anchors
from mir2bench.evaluation.protocol import CLEAN, get_protocol
from mir2bench.evaluation.study import Study
from mir2bench.registration import VariantSpec

DESCRIPTION = """Train a defender with several values of one setting; compare cooperative and attacked return (Fig. 9).

Examples:
  python -m mir2bench.analyze ablation --budget standard --out runs/lambda
  python -m mir2bench.analyze ablation --values 0 0.001 0.01 --seeds 3
  python -m mir2bench.analyze ablation --algo maddpg --setting noise --values 0.05 0.1 0.2 0.4"""

PAPER_SETTING = "lam"
PAPER_VALUES = ("0", "1e-5", "5e-5", "1e-4", "5e-4", "1e-3", "5e-3", "1e-2", "5e-2", "1e-1")
"""Lambda in the paper's Fig. 9."""


@dataclass(frozen=True)
class Options(StudyOptions):
    """What to vary, and how the results are attacked."""

    algo: str = "mir2"
    """Defender: a name or package.module:Class."""
    setting: str = PAPER_SETTING
    """Its setting that is varied; any number."""
    values: tuple[str, ...] = ()
    """Values of the setting; the default, for lam alone, is the paper's ten."""
    protocol: str = "paper-v1"
    """Which attackers and partitions."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    """Other settings that differ from the defender's defaults."""


def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Run the ablation that the options describe; return 1 if jobs failed."""
    variant = attackable(options.env)
    budget = budget_of(options)
    seeds = range(budget.defender_seeds)
    contenders = sweep(options.algo, variant, options.setting, options.values, options.settings, seeds)
    study = Study((variant,), tuple(contenders), get_protocol(options.protocol), budget)
    output = Output("ablation", options)
    finished = run_study(study, output)

    values = {c.name: c.config[options.setting] for c in contenders}
    outcomes = finished.outcomes(variant.id)
    data = cells(outcomes)
    data.insert(0, "value", data.pop("defender").map(values))
    output.table("ablation-cells", data)
    table = estimates(outcomes, (CLEAN, study.protocol.headline))
    table.insert(0, "value", table.pop("defender").map(values))
    output.table("ablation", table)
    output.figure("ablation", draw(table, options.setting, variant))
    shown = as_text(table.assign(value=table["value"].map("{:g}".format)), "value", "arm")
    output.show(shown, f"{options.algo} on {variant.id}: team return and 95% intervals")
    output.summary({"algorithm": options.algo, "setting": options.setting, "results": table.to_dict("records")})
    return finished.status()


def sweep(
    algorithm: str,
    variant: VariantSpec,
    setting: str,
    values: Sequence[str],
    settings: Sequence[str],
    seeds: Sequence[int],
) -> list[Contender]:
    """Return one contender per value of a setting, by ascending value.

    Args:
        algorithm: the defender.
        variant: where it trains.
        setting: field of its configuration that holds a number.
        values: as texts; empty for the paper's values of lambda.
        settings: "KEY=VALUE" for the others.
        seeds: training seeds.

    Raises:
        UnknownNameError: no such defender or setting.
        ConfigError: the setting is no number, has no default values, or a value is out of range or given twice.
    """
    plain = resolve_configs([algorithm], settings, variant)[algorithm]
    if setting not in plain:
        raise unknown_name(f"setting of {algorithm}", setting, plain)
    if isinstance(plain[setting], bool) or not isinstance(plain[setting], int | float):
        raise ConfigError(f"{setting} of {algorithm} is no number ({plain[setting]!r}), so it cannot be swept.")
    if not values and setting != PAPER_SETTING:
        raise ConfigError(f"which values shall {setting} take? Name them: --values {plain[setting]} ...")
    chosen: dict[float, Contender] = {}
    for text in values or PAPER_VALUES:
        config = resolve_configs([algorithm], [*settings, f"{setting}={text}"], variant)[algorithm]
        value = config[setting]
        if value in chosen:
            raise ConfigError(f"the value {value} of {setting} is given twice. Give each once.")
        chosen[value] = Contender(f"{setting}={value:g}", "trained", algorithm, config, tuple(seeds))
    return [chosen[value] for value in sorted(chosen)]


def draw(table: pd.DataFrame, setting: str, variant: VariantSpec) -> Figure:
    """Draw one line per arm over the values, which stand at equal distances.

    Args:
        table: columns value, arm, mean, low, high.
        setting: name of the horizontal axis.
        variant: whose floor and ceiling are drawn.
    """
    values = sorted(table["value"].unique())
    with drawing():
        figure = Figure(figsize=(max(4.8, 1.6 + 0.52 * len(values)), 3.6))
        axes = figure.add_subplot()
        for i, (arm, rows) in enumerate(table.groupby("arm", sort=False)):
            places = [values.index(value) + 0.06 * (2 * i - 1) for value in rows["value"]]
            draw_estimates(axes, places, rows, color=PALETTE[i], fmt=f"{MARKERS[i]}-", label=arm_label(str(arm)))
        draw_anchors(axes, variant)
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel(r"$\lambda$" if setting == PAPER_SETTING else setting)
        axes.set_ylabel("team return per episode")
        axes.set_title(short_id(variant), fontsize=10)
        figure.legend(loc="outside lower center", ncols=2)
    return figure
