"""The paper's analyses: `python -m mir2bench.analyze --help`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mir2bench.cli import run, tell_errors
from mir2bench.errors import UnknownNameError, unknown_name

PROG = "python -m mir2bench.analyze"
ANALYSES = {
    "ablation": "return against a setting such as the lambda of MIR2, cooperative and attacked (Fig. 9)",
    "adversaries": "return against the number of adversaries (Fig. 8)",
    "behavior": "trajectories of defenders and adversaries, as pictures and film (Fig. 5 and 7)",
    "embedding": "how far an attack moves the actors' representations (Fig. 5e)",
    "overfit": "defenders against the adversary they were trained on, and against a fresh one",
    "per-agent": "attack result for each agent",
    "timing": "time of a training epoch, of all defenders side by side (Table 1)",
}
DESCRIPTION = (
    f"The paper's analyses. `{PROG} NAME --help` explains each.\n\n"
    + "\n".join(f"  {name:<12} {about}" for name, about in ANALYSES.items())
    + f"\n\nExamples:\n  {PROG} ablation --budget standard\n  {PROG} per-agent --study runs/comparison\n"
    f"  {PROG} timing --env Rendezvous10-adv1-v0"
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the analysis that the first argument names, and return the exit status; None takes `sys.argv[1:]`."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(DESCRIPTION)
        return 0
    if name not in ANALYSES:
        return tell_errors(_refuse, name)
    # Only the chosen one is imported: each needs the heavy packages.
    module = importlib.import_module(f"mir2bench.analysis.{name.replace('-', '_')}")
    return run(module.run, prog=f"{PROG} {name}", description=module.DESCRIPTION, args=rest)


def _refuse(name: str) -> None:
    error = unknown_name("analysis", name, ANALYSES)
    raise UnknownNameError(f"{error} `{PROG} --help` lists them all.")


if __name__ == "__main__":
    sys.exit(main())
