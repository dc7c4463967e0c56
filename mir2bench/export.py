"""Turn policies into ONNX, and ONNX into policy bundles: `python -m mir2bench.export --help`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mir2bench.cli import run
from mir2bench.errors import ConfigError, PolicyError

DESCRIPTION = """Write one agent's decentralized policy as an ONNX graph, or wrap an ONNX graph into a policy bundle.

Examples:
  python -m mir2bench.export baselines/mir2/Rendezvous10-adv1-v0/seed0 --onnx
  python -m mir2bench.export baselines/mir2/Rendezvous10-adv1-v0/seed0 --onnx robot.onnx
  python -m mir2bench.export baselines/mir2/Rendezvous10-adv1-v0/seed0 --bundle runs/mir2-onnx
  python -m mir2bench.export mine.onnx --env Rendezvous10-adv1-v0 --algorithm mine --seed 3 --bundle runs/mine"""


@dataclass(frozen=True)
class Options:
    """What to export, and to where."""

    source: tyro.conf.Positional[Path]
    """A policy bundle, or an ONNX file (what it must read and return: mir2bench/onnx_policies.py)."""
    onnx: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[FILE]")] = None
    """Write the graph of one agent's policy: observation in, actions or logits out. Without FILE it is named after
    variant, algorithm and seed."""
    bundle: Path | None = None
    """Write a bundle around the graph to this folder."""
    env: str | None = None
    """For an ONNX file: the variant that it plays."""
    algorithm: str = "unknown"
    """For an ONNX file: how it was trained."""
    seed: int = 0
    """For an ONNX file: its training seed."""


def main(options: Annotated[Options, tyro.conf.arg(name="")]) -> None:
    """Write what the options name."""
    from mir2bench.learning.onnx_graph import actor_graph
    from mir2bench.onnx_policies import FILE, OnnxPolicy, read_graph, save_onnx_policy
    from mir2bench.policies import load_policy, read_bundle
    from mir2bench.registration import spec

    if options.onnx is None and options.bundle is None:
        raise ConfigError("nothing to write: give --onnx, --bundle FOLDER or both.")
    if options.onnx is not None and len(options.onnx) > 1:
        raise ConfigError(f"--onnx takes one file, not {len(options.onnx)}. Name the policy before it.")
    if options.source.suffix == ".onnx":
        if options.env is None:
            raise ConfigError("an ONNX file does not say what it plays: add --env VARIANT.")
        variant = spec(options.env)
        content = read_graph(options.source)
        facts = {"algorithm": options.algorithm, "config": {}, "seed": options.seed, "n_agents": variant.n_agents}
        noise = 0.0
    else:
        text = read_bundle(options.source)
        variant = spec(text["variant"])
        policy = load_policy(options.source)
        content = read_graph(options.source / FILE) if isinstance(policy, OnnxPolicy) else actor_graph(policy)
        facts = {key: text[key] for key in ("algorithm", "config", "seed", "n_agents")}
        noise = text["noise"]
    file = None
    if options.onnx is not None:
        named = f"{variant.id.rpartition('/')[2]}-{facts['algorithm']}-seed{facts['seed']}.onnx"
        file = options.onnx[0] if options.onnx else Path(named)
        if file.exists():
            raise PolicyError(f"{file} exists. Choose another name.")
    checked = OnnxPolicy(content, variant.layout, facts["n_agents"], noise)
    if options.bundle is not None:
        save_onnx_policy(content, options.bundle, variant=variant, noise=noise, **facts)
        print(f"{options.bundle}: a bundle for {variant.id}")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        ends = ", ".join(f"{name} (rows, {', '.join(map(str, shape))})" for name, shape in checked.interface.items())
        print(f"{file}: {len(content)} bytes; {ends}")


if __name__ == "__main__":
    sys.exit(run(main, prog="python -m mir2bench.export", description=DESCRIPTION))
