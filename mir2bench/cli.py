"""What all command lines share: parsing by tyro, and errors told in one line instead of a traceback."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mir2bench.errors import Mir2BenchError, PartitionError
from mir2bench.partition import Partition


def run(
    main: Callable[..., int | None],
    *,
    prog: str,
    description: str | None = None,
    args: Sequence[str] | None = None,
) -> int:
    """Parse the command line into `main`'s parameters, call it, and return the exit status.

    Use as `sys.exit(run(main, prog="python -m mir2bench.train"))`. Usage errors leave through tyro with status 2.

    Args:
        main: a function whose annotated parameters are the options and whose docstring explains them.
        prog: how the command is called, shown in the help.
        description: what the command does; by default `main`'s docstring up to its arguments.
        args: the arguments; None takes `sys.argv[1:]`.

    Returns:
        What `main` returned (0 for None); 2 if a `Mir2BenchError` came, whose text went to stderr as one line;
        130 if the user pressed Ctrl-C; 141 if nobody reads the output any more.
    """
    import tyro  # slow to import, and `import mir2bench` must be quick

    if description is None:  # tyro would leave out the examples
        description = (inspect.getdoc(main) or "").partition("\n\nArgs:")[0]
    return tell_errors(tyro.cli, main, prog=prog, description=description, args=args)


def tell_errors(call: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Call something and return the exit status; see `run`."""
    try:
        return int(call(*args, **options) or 0)
    except Mir2BenchError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def parse_phi(text: str, n_agents: int, n_adversaries: int | None = None) -> Partition:
    """Read a partition from the command line.

    Args:
        text: N zeros and ones such as "0010000000" (commas and spaces may separate them), the adversaries' indices such
            as "2" or "2,5" ("2+5" as in tables), or "none". A text of exactly N zeros and ones is read as phi.
        n_agents: N.
        n_adversaries: K that the variant allows; None allows any.

    Raises:
        PartitionError: neither form fits, or the number of adversaries is not allowed.
    """
    words = text.replace(",", " ").replace("+", " ").split()
    digits = "".join(words)
    if text.strip() == "none":
        phi = Partition.of(n_agents)
    elif len(digits) == n_agents and set(digits) <= {"0", "1"}:
        phi = Partition(tuple(int(d) for d in digits))
    elif words and all(w.isdecimal() and int(w) < n_agents for w in words):
        phi = Partition.of(n_agents, [int(w) for w in words])
    else:
        raise PartitionError(
            f"phi must be {n_agents} zeros and ones such as {'1':0<{n_agents}}, indices of agents from 0 to "
            f"{n_agents - 1} such as 0,2, or none, but it is {text!r}."
        )
    return Partition.parse(phi, n_agents, n_adversaries)
