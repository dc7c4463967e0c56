"""The leaderboards: `python -m mir2bench.leaderboard --help`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mir2bench.cli import run, tell_errors
from mir2bench.errors import UnknownNameError, unknown_name

PROG = "python -m mir2bench.leaderboard"
Folders = tyro.conf.Positional[tuple[Path, ...]]
Folder = tyro.conf.Positional[Path]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def new(
    run: tyro.conf.Positional[str],
    /,
    name: str,
    defender: str | None = None,
    env: str | None = None,
    policy: tuple[Path, ...] = (),
    title: str = "",
    description: str = "",
    author: tuple[str, ...] = (),
    paper: str | None = None,
    code: str | None = None,
    page: str | None = None,
    seen: tuple[str, ...] = (),
    steps: int | None = None,
    out: Path | None = None,
) -> None:
    """Write a draft of an entry from a finished run of mir2bench.evaluate, filled as far as a run can tell.

    Examples:
        python -m mir2bench.leaderboard new runs/comparison --name my-method --defender mir2 --author "Ada Example"
        python -m mir2bench.leaderboard new scripted:idle --name scripted-idle --env Rendezvous5-adv1-v0 --out runs/idle

    Args:
        run: the run's folder; or scripted:TEAM, for a sanity row that needs no run.
        name: short name of the entry: small letters, digits and hyphens.
        defender: whose results; needed if the run has several defenders.
        env: on which variant; needed if the run has several.
        policy: the bundles that the run evaluated, if it did not train them itself.
        title: what the row is called; the default is the algorithm.
        description: what is new about it, in one line.
        author: who made it.
        paper: link to read on.
        code: link to the code.
        page: any other link.
        seen: attackers that took part in training or tuning.
        steps: environment steps per training seed, if the bundles do not tell.
        out: where the draft goes; the default is RUN/entries/VARIANT/NAME.
    """
    from mir2bench.errors import ConfigError
    from mir2bench.evaluation.contenders import SCRIPTED
    from mir2bench.leaderboard.new import About, new_entry, new_sanity_row

    about = About(name, title, description, author, paper, code, page, seen, steps)
    if not run.startswith(SCRIPTED):
        print(new_entry(Path(run), about, defender=defender, variant=env, policies=policy, out=out))
    elif env is None or out is None:
        raise ConfigError(f"{run} needs --env and --out.")
    else:
        print(new_sanity_row(run.removeprefix(SCRIPTED), about, env, out))


def check(folders: Folders, /) -> None:
    """Check entries: schema, files, hashes, sizes, names, scores, and whether their policies act as policies must.

    Examples:
        python -m mir2bench.leaderboard check leaderboards/Rendezvous10-adv1-v0/mir2

    Args:
        folders: the entries; the default is all of this installation's leaderboards.
    """
    from mir2bench.leaderboard.board import all_entries
    from mir2bench.leaderboard.check import check_entry

    for folder in folders or all_entries():
        entry = check_entry(folder, board=folder.absolute().parent.parent)
        print(f"{entry.folder}: fine")


def submit(draft: Folder, /, name: str | None = None, board: Path | None = None) -> None:
    """Check a draft and copy it into the leaderboards' folder, ready for a pull request.

    Examples:
        python -m mir2bench.leaderboard submit runs/entry
        python -m mir2bench.leaderboard submit runs/comparison --name my-method

    Args:
        draft: the draft's folder, or that of a run with a single defender and variant.
        name: short name of the entry, if a run is given.
        board: the leaderboards' folder; the default is that of this checkout.
    """
    from mir2bench.leaderboard.new import submit_entry, submit_run

    print(submit_entry(draft, board) if name is None else submit_run(draft, name, board))


def verify(
    folders: Folders,
    /,
    full: Flag = False,
    partitions: int = 1,
    budget: str = "quick",
    attack_steps: int | None = None,
    protocol: str = "suite-v1",
    salt: Path | None = None,
    work: Path | None = None,
    workers: int = 1,
    weaker: Flag = False,
) -> None:
    """Attack entries anew, with fresh attackers and seeds that nobody knew, and write what was found into them.

    Several entries of one variant are verified together: then each also meets the attackers of the others.

    Examples:
        python -m mir2bench.leaderboard verify leaderboards/Rendezvous10-adv1-v0/mir2 --partitions 2
        python -m mir2bench.leaderboard verify leaderboards/Rendezvous10-adv1-v0/* --full --workers 2

    Args:
        folders: the entries.
        full: attack all partitions of the protocol.
        partitions: how many partitions are attacked otherwise, drawn by the salt; all training seeds always are.
        budget: smoke, quick, standard or paper.
        attack_steps: environment steps of each attack, if not the budget's.
        protocol: suite-v1 or paper-v1.
        salt: file of the secret that all seeds derive from; the default is made on first use.
        work: study folder; the same verification continues there.
        workers: processes.
        weaker: replace a verification that was more thorough; the entry's history tells it.
    """
    from mir2bench.errors import ConfigError
    from mir2bench.evaluation.single import default_out
    from mir2bench.leaderboard.salt import read_salt
    from mir2bench.leaderboard.verify import Effort, verify_entries

    if not folders:
        raise ConfigError("name the entries to verify.")
    if partitions < 1:
        raise ConfigError(f"--partitions must be 1 or more, but it is {partitions}.")
    if workers < 1:
        raise ConfigError(f"--workers must be 1 or more, but it is {workers}.")
    effort = Effort(protocol, budget, attack_steps, None if full else partitions, workers, weaker)
    done = verify_entries(folders, work or default_out(("verify",)), lambda: read_salt(salt), effort)
    for entry in done:
        found = entry.verified
        if found is not None:
            worst = found.worst or found.clean
            print(f"{entry.entry}: worst {worst.mean:.2f}, {len(found.cells)} of {found.cells_total} cells")


def challenge(
    entry: Folder,
    adversaries: Folders,
    /,
    name: str,
    description: str = "",
    author: tuple[str, ...] = (),
    paper: str | None = None,
    code: str | None = None,
    salt: Path | None = None,
) -> None:
    """Play another attack against a verified entry; if it is stronger the row falls; its old value stays in history.

    Examples:
        python -m mir2bench.leaderboard challenge leaderboards/Rendezvous10-adv1-v0/mir2 runs/attack/bundle --name mine

    Args:
        entry: the entry's folder.
        adversaries: bundles of adversaries, as mir2bench.attack writes them.
        name: short name of the attack.
        description: what is new about it, in one line.
        author: who made it.
        paper: link to read on.
        code: link to the code.
        salt: file of the secret that the entry was verified with.
    """
    from mir2bench.leaderboard.challenge import challenge_entry
    from mir2bench.leaderboard.new import About
    from mir2bench.leaderboard.salt import read_salt

    about = About(name, "", description, author, paper, code)
    found, lowered = challenge_entry(entry, adversaries, about, read_salt(salt, make=False))
    if found.verified is not None and found.verified.worst is not None:
        print(f"{found.entry}: {lowered} cells lowered, worst {found.verified.worst.mean:.2f}")


def build(out: Path = Path("site"), board: Path | None = None, update: bool = False) -> None:
    """Write the leaderboards as a static site.

    Examples:
        python -m mir2bench.leaderboard build --out site
        python -m mir2bench.leaderboard build --update

    Args:
        out: the folder to write.
        board: the leaderboards' folder; the default is this installation's.
        update: also write each variant's board.json into the leaderboards' folder, as a pull request must.
    """
    from mir2bench.content import content_dir
    from mir2bench.leaderboard.site import build as build_site

    board = content_dir("leaderboards") if board is None else board
    build_site(board, out)
    if update:
        for data in sorted(out.glob("*/board.json")):
            shutil.copyfile(data, board / data.parent.name / data.name)
    print(out / "index.html")


COMMANDS = {
    "new": (new, "write a draft of an entry from a run"),
    "check": (check, "check entries"),
    "submit": (submit, "copy a draft into the leaderboards' folder"),
    "verify": (verify, "attack entries anew and write what was found"),
    "challenge": (challenge, "lower a row by a stronger attack"),
    "build": (build, "write the static site"),
}
DESCRIPTION = (
    f"The leaderboards. `{PROG} COMMAND --help` explains each.\n\n"
    + "\n".join(f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items())
    + f"\n\nExamples:\n  {PROG} new runs/comparison --name my-method --defender mir2\n"
    f"  {PROG} submit runs/comparison/entries/Rendezvous10-adv1-v0/my-method\n"
    f"  {PROG} verify leaderboards/Rendezvous10-adv1-v0/my-method --partitions 2"
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, and return the exit status; None takes `sys.argv[1:]`."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(DESCRIPTION)
        return 0
    if name not in COMMANDS:
        return tell_errors(_refuse, name)
    return run(COMMANDS[name][0], prog=f"{PROG} {name}", args=rest)


def _refuse(name: str) -> None:
    error = unknown_name("leaderboard command", name, COMMANDS)
    raise UnknownNameError(f"{error} `{PROG} --help` lists them all.")


if __name__ == "__main__":
    sys.exit(main())
