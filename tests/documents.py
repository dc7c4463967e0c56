"""The project's Markdown pages: their code blocks, commands and links, and how blocks are run at a smoke budget.

The one rule of shrinking: commands run in this process as they stand, except that a budget is `SMOKE` whatever its name
and however many steps it has, episodes last `HORIZON` steps, work is done by one process, and options that say how
often something is repeated are cut to `AT_MOST`. Jobs of studies that are the same on several pages are done once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from packaging.requirements import Requirement

import mir2bench
from mir2bench import cli, registration
from mir2bench.analysis import ablation, adversaries, discrepancy, timing
from mir2bench.attackers import learned, sb3, strongest
from mir2bench.evaluation import executor, protocol, statistics, study
from mir2bench.leaderboard import challenge, check, new, play, verify
from mir2bench.learning import loop

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "baselines/*.md", "leaderboards/**/*.md")
    for path in ROOT.glob(pattern)
)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SMOKE = protocol.Budget("smoke", 200, 200, 1, 1, 2, 1, False)
HORIZON = 20
AT_MOST = {"seeds": 1, "partitions": 1, "workers": 1, "episodes": 4, "epochs": 2, "batch_episodes": 2, "points": 8}
ENTRY_POINTS = {f"mir2bench.{kind}s" for kind in ("defender", "attacker", "variant")}
AT_LEAST = {"every": 50}
"""Of a film, every n-th step is drawn."""
SWEPT = ("values", "counts", "seed_of_episode")
"""Of these, the first two are tried."""
MAY_FAIL = "leaderboard challenge"
"""An attack that lowers nothing is refused."""
NOT_CODE = ("text",)
SHELL = ("sh", "bash", "console")
EXCUSE = re.compile(r"\*Not run by the tests: (.+)\.\*")


# --- pages ---


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced or indented block, and why it is not run, if a line before it says so."""

    page: str
    line: int
    language: str
    text: str
    excuse: str = ""


@functools.cache
def tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page; indented ones have the language "indented"."""
    found = []
    for place, token in enumerate(tokens(page)):
        if token.type not in ("fence", "code_block"):
            continue
        before = tokens(page)[place - 2].content if tokens(page)[place - 1].type == "paragraph_close" else ""
        excuse = EXCUSE.fullmatch(before)
        language = "indented" if token.type == "code_block" else token.info.strip()
        found.append(Block(page, token.map[0] + 1, language, token.content, excuse[1] if excuse else ""))
    return found


def inlines(page: str) -> Iterator[Token]:
    """Yield all pieces of a page's running text: words, code, links, images."""
    for token in tokens(page):
        yield from token.children or ()


def pictures(page: str) -> Iterator[str]:
    """Yield where the pictures of a page lie, those of HTML as well."""
    for token in (*tokens(page), *inlines(page)):
        if token.type == "image":
            yield str(token.attrs["src"])
        elif token.type.startswith("html"):
            yield from re.findall(r'(?:src="|inline: )([^" ]+)', token.content)


def commands(text: str) -> Iterator[str]:
    """Yield the lines of a shell block without comments; one that ends in a backslash goes on in the next."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip().removeprefix("$ ")


def anchors(page: str) -> set[str]:
    """Return what links into a page may name: its headings, and those of what is generated into it."""
    text = [tokens(page)[i + 1].content for i, token in enumerate(tokens(page)) if token.type == "heading_open"]
    return {slug(heading) for heading in text}


def slug(heading: str) -> str:
    return re.sub(r"\s", "-", re.sub(r"[^\w\- ]", "", re.sub(r"\[(.+?)\]\(.*?\)", r"\1", heading)).strip().lower())


# --- the smoke budget ---


def shrink(value: Any, name: str = "") -> Any:
    """Cut an option; of a dictionary or a dataclass of options, each."""
    if isinstance(value, dict):
        return {key: shrink(old, key) for key, old in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **shrink({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}))
    if name == "budget" and isinstance(value, str):
        return "smoke"
    if name == "workers":
        return 1
    if isinstance(value, int) and not isinstance(value, bool):
        return max(min(value, AT_MOST.get(name, value)), AT_LEAST.get(name, 0))
    if isinstance(value, tuple) and name in SWEPT:
        return value[:2]
    return value


def at_smoke_budget(jobs: Path) -> pytest.MonkeyPatch:
    """Put the rule of shrinking into force until the result is undone; finished jobs of studies are kept in `jobs`."""
    patch = pytest.MonkeyPatch()
    run, run_job, with_counts = cli.run, executor.run_job, adversaries.with_counts

    def run_shrunk(main: Callable[..., int | None], **options: Any) -> int:
        @functools.wraps(main)
        def shrunk(*args: Any, **named: Any) -> int | None:
            return main(*map(shrink, args), **shrink(named))

        if options.get("description") is None:
            options["description"] = inspect.getdoc(main)
        return run(shrunk, **options)

    def run_once(store: Any, job: Any, report: Any = None) -> None:
        if not (jobs / job.key).exists():
            run_job(store, job, report)
            shutil.copytree(store.folder(job.key), jobs / job.key)
        shutil.copytree(jobs / job.key, store.folder(job.key), dirs_exist_ok=True)

    patch.setattr(cli, "run", run_shrunk)
    patch.setitem(protocol.BUDGETS, "smoke", SMOKE)
    patch.setattr(executor, "run_job", run_once)
    patch.setattr(statistics, "REPETITIONS", 50)
    patch.setattr(strongest, "SELECTION_EPISODES", 4)
    for name in ("_PERMUTATIONS", "_RESAMPLES", "_RESAMPLES_FRECHET"):
        patch.setattr(discrepancy, name, 20)
    patch.setattr(timing, "_UPDATES_ALONE", 1)
    patch.setattr(ablation, "PAPER_VALUES", ablation.PAPER_VALUES[:2])
    patch.setattr(adversaries, "with_counts", lambda base, counts: with_counts(base, counts[:2]))
    patch.setattr(study, "write_report", lambda *_: None)  # tests of the report draw it
    for module in (loop, learned, sb3):
        patch.setattr(module, "REPORTS", 1)
    # The leaderboards' checks and attacks, without processes of their own.
    for module in (check, new, verify, challenge, play):
        patch.setattr(module, "check_entry", lambda path, **_: check.inspect_entry(Path(path)))
    patch.setattr(verify, "_work", lambda study, jobs, work, *_: verify._execute(study, work, 1))
    patch.setattr(play, "run_limited", lambda _, order, __: play.play_task(**order))
    return patch


# --- running ---


class Session:
    """One page being run: a folder and a Python scope that its blocks share.

    Attributes:
        folder: stands for a checkout in which somebody works through the page.
        scope: of the Python blocks.
        ran: command and exit status, in order.
        variables: what `$NAME` in shell blocks stands for; called when it is needed.
    """

    def __init__(self, page: str, folder: Path, variables: dict[str, Callable[[Session], str]]) -> None:
        self.page, self.folder, self.variables = page, folder, variables
        self.scope: dict[str, Any] = {"__name__": "__main__"}
        self.ran: list[tuple[str, int]] = []
        (folder / "leaderboards").mkdir()
        (folder / "docs").mkdir()
        (folder / "runs").mkdir()
        (folder / "baselines").symlink_to(ROOT / "baselines")
        (folder / "docs" / "results").symlink_to(ROOT / "docs" / "results")
        shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
        for name in ("pyproject.toml", "Makefile"):
            shutil.copy(ROOT / name, folder)

    def run(self, block: Block) -> None:
        """Run a block; what it writes about is left in the folder and the scope."""
        if block.language == "python":
            code = "\n" * block.line + block.text
            exec(compile(code, block.page, "exec"), self.scope)
        elif block.language in SHELL:
            for line in commands(block.text):
                for name in re.findall(r"\$(\w+)", line):
                    line = line.replace(f"${name}", self.variables[name](self))
                status = self.shell(shlex.split(line, comments=True))
                self.ran.append((line, status))
                assert status == 0 or MAY_FAIL in line, f"{block.page}:{block.line}: {line!r} ended with {status}"
        elif block.language == "toml":
            self.toml(block.text)
        else:
            raise AssertionError(f"{block.page}:{block.line}: nobody knows how to run {block.language!r}")

    def shell(self, words: Sequence[str]) -> int:
        match list(words):
            case ["cd", folder]:
                os.chdir(folder)
            case ["make", *targets]:
                done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
                assert done.stdout, done.stderr
                return done.returncode
            case ["pip", "install", *what]:
                check_pip(what)
                if (project := Path("pyproject.toml").resolve()).parent != self.folder:
                    install(project.parent, self.folder / "site")
            case ["python", "docs/figures.py", *names]:
                script = runpy.run_path(str(ROOT / "docs" / "figures.py"))
                if names == ["--list"]:
                    return script["main"](names)
                assert script["draw"](names, self.folder / "drawn") == names
            case ["python", "-c", code]:
                exec(compile(code, self.page, "exec"), {"__name__": "__main__"})
            case ["tensorboard", "--logdir", folder]:
                assert importlib.util.find_spec("tensorboard")
                assert list(Path(folder).rglob("events.out.tfevents.*"))
            case ["python", "-m", module, *args] if module.startswith("mir2bench"):
                return call(module, args)
            case ["mir2bench", name, *args]:
                return call(f"mir2bench.{name}", args)
            case _:
                raise AssertionError(f"{self.page}: nobody knows how to run {shlex.join(words)!r}")
        return 0

    def toml(self, text: str) -> None:
        """Register a variant; of a project's own file, look at the groups of entry points."""
        table = tomllib.loads(text)
        if "world" in table:
            (self.folder / "block.toml").write_text(text)
            self.scope["ids"] = mir2bench.register(self.folder / "block.toml")
        else:
            assert set(table["project"]["entry-points"]) <= ENTRY_POINTS


@contextlib.contextmanager
def short_episodes() -> Iterator[None]:
    """Let episodes of all variants last `HORIZON` steps at most, for a while."""
    specs = registration._SPECS
    whole = dict(specs)
    specs.update({name: dataclasses.replace(spec, horizon=min(spec.horizon, HORIZON)) for name, spec in whole.items()})
    try:
        yield
    finally:
        specs.update(whole)


def call(module: str, args: Sequence[str]) -> int:
    """Do in this process what `python -m module args` does, and return the exit status."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), short_episodes():
        warnings.filterwarnings("ignore", "'mir2bench.* found in sys.modules", RuntimeWarning)
        patch.setattr(sys, "argv", [module, *args])
        patch.setattr(sys, "path", [os.getcwd(), *sys.path])
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def parse(module: str, args: Sequence[str]) -> int:
    """Read a command line as `call` does, without doing what it says."""
    run = cli.run

    def read(main: Callable[..., int | None], **options: Any) -> int:
        return run(functools.wraps(main)(lambda *_, **__: 0), **{"description": "", **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "run", read)
        return call(module, args)


def check_pip(what: Sequence[str]) -> None:
    """See that a project can be installed by these words: the project's own name, folder and extras."""
    for word in what:
        if word == "--editable":
            continue
        if word.startswith("."):
            place, extras = Path(word.partition("[")[0]), set(re.findall(r"[\w-]+", word.partition("[")[2]))
            assert (place / "pyproject.toml").exists()
        else:
            wanted = Requirement(word)
            assert wanted.name == PYPROJECT["project"]["name"]
            extras = wanted.extras
        assert extras <= set(PYPROJECT["project"]["optional-dependencies"])


def install(project: Path, site: Path) -> None:
    """Install a project of ours into a folder, for this process."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(site), str(project)], check=True)
    sys.path.insert(0, str(site))
    registration.register_builtin()


def undisturbed(function: Callable[[], None]) -> None:
    """Call something that may seed numpy's global generator, as Stable-Baselines3 does, import and register."""
    state, modules, path, here = np.random.get_state(), set(sys.modules), list(sys.path), os.getcwd()
    try:
        function()
    finally:
        np.random.set_state(state)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(here):
                del sys.modules[name]
