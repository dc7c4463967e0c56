"""`python -m mir2bench.bench`: how fast worlds, training and whole protocols are on this machine."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Annotated

import tyro

from mir2bench import cli
from mir2bench.speed.engines import Engines
from mir2bench.speed.protocol import Protocol
from mir2bench.speed.training import Training


def main(
    what: Annotated[
        Annotated[Engines, tyro.conf.subcommand("engines", description=inspect.getdoc(Engines))]
        | Annotated[Training, tyro.conf.subcommand("training", description=inspect.getdoc(Training))]
        | Annotated[Protocol, tyro.conf.subcommand("protocol", description=inspect.getdoc(Protocol))],
        tyro.conf.arg(name=""),
    ],
) -> int:
    """Measure speed: medians over rounds in which the things compared take turns.

    Examples:
        python -m mir2bench.bench engines
        python -m mir2bench.bench training --env Skirmish-4m_vs_3m-adv0-v0 --algo maddpg mir2 --rounds 15
        python -m mir2bench.bench training --set hidden=256 worlds=1 batch_size=1600 --steps 200
        python -m mir2bench.bench protocol --algo maddpg mir2 --cores 2 64
        python -m mir2bench.bench protocol --study runs/comparison

    Args:
        what: engines for worlds and views, training for acting and learning, protocol for the jobs of a study.
    """
    from mir2bench.evaluation.files import write_json
    from mir2bench.evaluation.scores import environment

    what.check()
    where = environment()
    figures = what.measure()
    width = max(len(f.name) for f in figures)
    for f in figures:
        spread = "" if f.low == f.high else f"  (low {f.low:,.2f}, high {f.high:,.2f})"
        print(f"{f.name:<{width}}  {f.median:>12,.2f} {f.unit}{spread}")
    hardware, versions = where["hardware"], where["versions"]
    print(f"\n{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {hardware['platform']}")
    print(", ".join(f"{name} {version}" for name, version in versions.items() if version))
    if what.json_file is not None:
        text = {**where, "figures": [dataclasses.asdict(f) for f in figures]}
        write_json(what.json_file, text)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, prog="python -m mir2bench.bench"))
