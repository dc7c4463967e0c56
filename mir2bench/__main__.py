"""The console command `mir2bench`: `mir2bench evaluate ...` is `python -m mir2bench.evaluate ...`."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

import mir2bench
from mir2bench.errors import Mir2BenchError, unknown_name

COMMANDS = {
    "evaluate": "train or load defenders, attack them, score, report",
    "train": "train one defender into a policy bundle",
    "attack": "find a worst case for one policy and one partition",
    "analyze": "the paper's analyses",
    "render": "draw one episode as GIF, MP4 or PNG",
    "leaderboard": "enter, check, verify, challenge and show results",
    "transfer": "play trained teams in another world",
    "export": "write one agent's policy as ONNX",
    "list": "list the variants",
    "anchors": "measure the score scale of worlds",
    "bench": "measure speed",
    "completion": "print a script that completes this command in bash, zsh or fish",
}
DESCRIPTION = (
    f"mir2bench {mir2bench.__version__}: robust cooperative multi-agent reinforcement learning, measured.\n\n"
    "usage: mir2bench COMMAND ...; `mir2bench COMMAND --help` explains each.\n\n"
    + "\n".join(f"  {name:<12} {about}" for name, about in COMMANDS.items())
    + "\n\nExamples:\n  mir2bench evaluate --algo maddpg mir2\n  mir2bench list --family Rendezvous\n"
    "  source <(mir2bench completion bash)"
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; None takes `sys.argv[1:]`. Return or exit with its status."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(DESCRIPTION)
        return 0
    if name == "--version":
        print(f"mir2bench {mir2bench.__version__}")
        return 0
    if name not in COMMANDS:
        error: Mir2BenchError = unknown_name("command", name, COMMANDS)
        print(f"error: {error} `mir2bench --help` explains them.", file=sys.stderr)
        return 2
    sys.argv = [f"mir2bench {name}", *rest]
    # As `python -m` does it, so that worker processes find their way back to the module.
    runpy.run_module(f"mir2bench.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
