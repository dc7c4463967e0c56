"""`python -m mir2bench.list`: which variants there are."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import tyro

import mir2bench
from mir2bench.cli import run
from mir2bench.errors import MissingDependencyError
from mir2bench.partition import count_partitions
from mir2bench.registration import VariantSpec, list_variants

COLUMNS = {
    "id": "id",
    "agents": "N",
    "adversaries": "K",
    "horizon": "steps",
    "partitions": "|Phi|",
    "obs": "obs",
    "state": "state",
    "actions": "actions",
    "floor": "floor",
    "ceiling": "ceiling",
}


def describe(variant: VariantSpec) -> dict[str, Any]:
    """Return one row of the table as plain data; sizes are None where the engine's package is not installed."""
    row: dict[str, Any] = {
        "id": variant.id,
        "family": variant.family,
        "agents": variant.n_agents,
        "adversaries": variant.n_adversaries,
        "horizon": variant.horizon,
        "partitions": count_partitions(variant.n_agents, variant.n_adversaries),
        "obs": None,
        "state": None,
        "actions": None,
        "discrete": None,
        "floor": variant.floor.score,
        "ceiling": variant.ceiling.score,
        "description": variant.description,
        "requires": variant.requires,
    }
    try:
        layout = variant.layout
    except MissingDependencyError:
        return row
    sizes = {
        "obs": layout.obs_dim,
        "state": layout.state_dim,
        "actions": layout.action_dim,
        "discrete": layout.discrete,
    }
    return row | sizes


def main(
    family: str | None = None,
    adversaries: int | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """List all variants: agents N, adversaries K, time limit, number of partitions |Phi^alpha|, sizes of one agent's
    observation, of the global state and of one agent's action, and the ends of the score scale.

    Examples:
        python -m mir2bench.list --family Rendezvous
        python -m mir2bench.list --adversaries 1 --json

    Args:
        family: only this family.
        adversaries: only variants with exactly this many adversaries.
        as_json: print JSON instead of a table.
    """
    rows = [describe(mir2bench.spec(id)) for id in list_variants(family=family, adversaries=adversaries)]
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    if not rows:
        print("No variant matches.", file=sys.stderr)
        return 0
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in COLUMNS.values():
        table.add_column(name, justify="left" if name == "id" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_text(key, row) for key in COLUMNS))
    console = Console()
    console.width = max(console.width, 100)  # rather a wrapped line than a cut id
    console.print(table)
    for extra in sorted({row["requires"] for row in rows if row["obs"] is None}):
        console.print(f'Sizes shown as ? need: pip install "mir2bench[{extra}]"', markup=False)
    return 0


def _text(key: str, row: dict[str, Any]) -> str:
    value = row[key]
    if value is None:
        return "?"
    if key == "actions":
        return f"1 of {value}" if row["discrete"] else str(value)
    return f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.list"))
