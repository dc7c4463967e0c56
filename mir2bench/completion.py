"""Completion of the command `mir2bench` by the shell: `mir2bench completion --help`."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

from mir2bench import cli
from mir2bench.__main__ import COMMANDS

Words = tuple[str, ...]


def main(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a script that completes commands, options, and the names of algorithms, variants and budgets.

    Examples:
        source <(mir2bench completion bash)
        mir2bench completion zsh > ~/.zfunc/_mir2bench.zsh   # and source it from ~/.zshrc
        mir2bench completion fish > ~/.config/fish/completions/mir2bench.fish

    Args:
        shell: bash, zsh or fish.
    """
    print({"bash": bash, "zsh": zsh, "fish": fish}[shell](options(), values()), end="")


def options() -> dict[Words, list[str]]:
    """Return command, or command and subcommand -> its options, or the subcommands that it has."""
    found: dict[Words, list[str]] = {(): list(COMMANDS)}
    for words, entry, before in _entries():
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            cli.run(entry, prog=" ".join(words), description="", args=[*before, "--help"])
        found[words] = sorted(set(re.findall(r"^\W*(?:-h, )?(--[a-z][a-z0-9-]*)", text.getvalue(), re.MULTILINE)))
        if len(words) == 2:
            found.setdefault(words[:1], []).append(words[1])
    return found


def _entries() -> Iterator[tuple[Words, Callable[..., Any], Words]]:
    """Yield every command, the function behind it, and the arguments that choose it there."""
    from mir2bench.analyze import ANALYSES
    from mir2bench.leaderboard.__main__ import COMMANDS as BOARD

    for name in COMMANDS:
        if name not in ("analyze", "leaderboard", "bench"):
            yield (name,), importlib.import_module(f"mir2bench.{name}").main, ()
    for name in ANALYSES:
        module = importlib.import_module(f"mir2bench.analysis.{name.replace('-', '_')}")
        yield ("analyze", name), module.run, ()
    for name, (function, _) in BOARD.items():
        yield ("leaderboard", name), function, ()
    for name in ("engines", "training", "protocol"):
        yield ("bench", name), importlib.import_module("mir2bench.bench").main, (name,)


def values() -> dict[str, list[str]]:
    """Return option -> the names that it takes."""
    from mir2bench.attackers import list_attackers
    from mir2bench.defenders import list_defenders
    from mir2bench.errors import MissingDependencyError
    from mir2bench.evaluation.protocol import BUDGETS, PROTOCOLS
    from mir2bench.registration import list_variants, spec

    attackers: dict[str, None] = {}
    for world in {spec(name).engine: spec(name) for name in list_variants()}.values():
        with contextlib.suppress(MissingDependencyError):
            attackers |= dict.fromkeys(list_attackers(world))
    return {
        "--algo": list_defenders(),
        "--attacker": list(attackers),
        "--env": [name.removeprefix("mir2bench/") for name in list_variants()],
        "--budget": list(BUDGETS),
        "--protocol": list(PROTOCOLS),
    }


def bash(options: dict[Words, list[str]], values: dict[str, list[str]]) -> str:
    """Return the script for bash; where it knows nothing, files are completed."""
    named = "\n".join(f"        {name}) list='{' '.join(names)}' ;;" for name, names in values.items())
    deep_first = sorted(options.items(), key=lambda item: -len(item[0]))
    listed = "\n".join(
        f"        '{''.join(f' {word}' for word in words)}'{'*' if words else ''}) list='{' '.join(names)}' ;;"
        for words, names in deep_first
    )
    return f"""_mir2bench() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} where='' option='' list='' i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
        -*) option=${{COMP_WORDS[i]}} ;;
        *) [[ -z $option ]] && where+=" ${{COMP_WORDS[i]}}" ;;
        esac
    done
    if [[ $cur != -* ]]; then
        case $option in
{named}
        esac
    fi
    if [[ -z $list && ( $cur == -* || -z $option ) ]]; then
        case $where in
{listed}
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$list" -- "$cur")
}}
complete -o default -F _mir2bench mir2bench
"""


def zsh(options: dict[Words, list[str]], values: dict[str, list[str]]) -> str:
    """Return the script for zsh, which understands that for bash but for `mapfile`."""
    script = bash(options, values).replace(
        'mapfile -t COMPREPLY < <(compgen -W "$list" -- "$cur")', 'COMPREPLY=($(compgen -W "$list" -- "$cur"))'
    )
    return f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{script}"


def fish(options: dict[Words, list[str]], values: dict[str, list[str]]) -> str:
    """Return the script for fish."""
    lines = [f"complete -c mir2bench -n __fish_use_subcommand -a {n} -d '{about}'" for n, about in COMMANDS.items()]
    for words, names in options.items():
        if not words:
            continue
        where = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in words)
        for name in names:
            if not name.startswith("--"):
                others = " ".join(names)
                lines.append(
                    f"complete -c mir2bench -n '{where}; and not __fish_seen_subcommand_from {others}' -a {name}"
                )
            elif name in values:
                lines.append(f"complete -c mir2bench -n '{where}' -l {name[2:]} -x -a '{' '.join(values[name])}'")
            else:
                lines.append(f"complete -c mir2bench -n '{where}' -l {name[2:]}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(cli.run(main, prog="mir2bench completion"))
