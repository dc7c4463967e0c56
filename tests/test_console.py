"""The console command `mir2bench`: what it calls, what it says, and what shells complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mir2bench
from mir2bench import completion
from mir2bench.__main__ import COMMANDS, main
from mir2bench.cli import run

ENTRIES = {" ".join(words): (entry, before) for words, entry, before in completion._entries()}


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == main(["--version"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert said.endswith(f"mir2bench {mir2bench.__version__}\n")


def test_a_typo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    assert "Did you mean `evaluate`?" in capsys.readouterr().err


def test_it_does_what_the_module_does() -> None:
    """The same output and the same exit status, and the help costs no heavy import."""
    script = "import sys; from mir2bench.__main__ import main; main(sys.argv[1:])"
    calls = [
        subprocess.run([sys.executable, *how], capture_output=True, text=True, check=False)
        for how in (
            ["-c", script, "list", "--json", "--family", "Rendezvous"],
            ["-m", "mir2bench.list", "--json", "--family", "Rendezvous"],
            ["-m", "mir2bench", "list", "--json", "--family", "Rendezvous"],
            ["-m", "mir2bench", "render", "--policy", "nothing", "--out", "x.gif"],
        )
    ]
    assert calls[0].stdout == calls[1].stdout == calls[2].stdout != ""
    assert calls[3].returncode == 2
    assert calls[3].stderr.startswith("error: ")
    light = "import sys, mir2bench.__main__ as m; m.main([]); assert not {'torch', 'numba', 'tyro'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ENTRIES)
def test_every_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry, before = ENTRIES[name]
    module = sys.modules[entry.__module__]
    own = len(name.split()) == 1 or name.startswith("analyze")
    description = getattr(module, "DESCRIPTION", None) if own else None
    with pytest.raises(SystemExit) as end:
        run(entry, prog=name, description=description, args=[*before, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "Examples:" in said
    assert re.search(rf"mir2bench[. ]{name} ", re.sub(r"\s+", " ", said)), "an example must show the command itself"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "mir2bench.bash"
    path.write_text(completion.bash(completion.options(), completion.values()))
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ev", "evaluate"),
        ("evaluate --prot", "--protocol"),
        ("evaluate --algo maddpg mi", "mir2"),
        ("analyze ti", "timing"),
        ("analyze timing --epo", "--epochs"),
        ("leaderboard verify some/entry --sal", "--salt"),
        ("train --env Rendezvous40-adv0", "Rendezvous40-adv0-v0"),
        ("bench training --gr", "--grow"),
        ("attack --attacker fle", "flee"),
        ("evaluate --policy basel", ""),
    ],
)
def test_bash_completes(script: Path, line: str, expected: str) -> None:
    words = " ".join(f"'{word}'" for word in f"mir2bench {line}".split(" "))
    code = (
        f"source {script}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _mir2bench; "
        'printf "%s" "${COMPREPLY[*]}"; complete -p mir2bench >&2'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == expected
    assert "-F _mir2bench mir2bench" in done.stderr


def test_other_shells() -> None:
    options, values = {(): ["train"], ("train",): ["--algo", "--out"]}, {"--algo": ["maddpg", "mir2"]}
    fish = completion.fish(options, values)
    assert "complete -c mir2bench -n '__fish_seen_subcommand_from train' -l algo -x -a 'maddpg mir2'\n" in fish
    zsh = completion.zsh(options, values)
    assert zsh.startswith("autoload")
    assert "mapfile" not in zsh
