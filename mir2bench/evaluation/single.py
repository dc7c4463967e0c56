"""What the command lines that train a single policy share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mir2bench.errors import ConfigError, PolicyError, StudyError
from mir2bench.evaluation.contenders import SCRIPTED, load_team_bundle, make_scripted
from mir2bench.evaluation.files import storing
from mir2bench.evaluation.monitor import default_console, duration, make_bars, shown_metrics
from mir2bench.learning.progress import Callback, Progress
from mir2bench.partition import Partition
from mir2bench.policies import Policy, load_policy, read_bundle
from mir2bench.registration import VariantSpec, spec

CHECKPOINT = "checkpoint.safetensors"
"""Where in its folder a single training keeps its state."""


def default_out(names: tuple[str, ...]) -> Path:
    """Return runs/<date-time>-<names>."""
    text = "-".join(name.rsplit(":", 1)[-1].rsplit(".", 1)[-1] for name in names)
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{text}"


def claim_folder(out: Path | None, name: str) -> Path:
    """Make the folder that a single training writes to.

    Raises:
        StudyError: it holds something already.
        StorageError: it cannot be made.
    """
    folder = (out or default_out((name,))).absolute()
    with storing(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            hint = ", or add --resume to continue what was interrupted there" if (folder / CHECKPOINT).exists() else ""
            raise StudyError(f"{folder} exists and is not empty. Choose a new folder with --out{hint}.")
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def reclaim_folder(out: Path | None) -> Path:
    """Return the folder of a single training that was interrupted.

    Raises:
        ConfigError: `out` is not given.
        StudyError: there is none, or it is finished.
    """
    if out is None:
        raise ConfigError("--resume needs --out, the folder of the training to continue.")
    folder = out.absolute()
    if not folder.is_dir():
        raise StudyError(f"{folder} holds no training that could be continued. Leave --resume off to begin.")
    if (folder / "bundle").exists():
        raise StudyError(f"the training in {folder} is finished: its policy is in {folder / 'bundle'}.")
    with storing(folder):
        for leftover in folder.glob(f".{CHECKPOINT}.*"):  # of a writer that was killed
            leftover.unlink()
    return folder


def check_seed(seed: int) -> None:
    """Raise `ConfigError` unless the seed is an integer of 0 or more."""
    if seed < 0:
        raise ConfigError(f"--seed must be 0 or more, but it is {seed}.")


def parse_steps(text: str, of_budget: Callable[[str], int]) -> int:
    """Read a number of environment steps, or the name of a budget.

    Raises:
        UnknownNameError: neither.
        ConfigError: the number is not positive.
    """
    if not text.replace("_", "").replace(",", "").isdecimal():
        return of_budget(text)
    steps = int(text.replace("_", "").replace(",", ""))
    if steps < 1:
        raise ConfigError(f"the budget must be 1 step or more, but it is {text}.")
    return steps


def load_team(policy: str, variant: str | None) -> tuple[VariantSpec, Policy]:
    """Return the variant and the team that a command line names.

    Args:
        policy: a bundle's folder or "scripted:<team>".
        variant: an id; None takes the bundle's own.

    Raises:
        PolicyError: the bundle is damaged, does not fit, or holds adversaries.
        ConfigError: a scripted team without a variant.
    """
    if policy.startswith(SCRIPTED):
        if variant is None:
            raise ConfigError(f"{policy} plays many variants: name one with --env.")
        return spec(variant), make_scripted(spec(variant), policy.removeprefix(SCRIPTED))
    own = spec(variant or read_bundle(policy)["variant"])
    return own, load_team_bundle(Path(policy), own)


def load_adversaries(folder: Path, variant: VariantSpec, phi: Partition | None = None) -> tuple[Partition, Policy]:
    """Return the partition that a bundle of adversaries plays, and their policy.

    Args:
        folder: the bundle.
        variant: what it is to play.
        phi: who is adversarial; None takes the partition that the bundle was trained for.

    Raises:
        PolicyError: it is damaged, belongs to another world, or holds another number of adversaries.
        PartitionError: its partition does not fit the variant.
    """
    card = read_bundle(folder)
    policy = load_policy(folder, variant)
    if phi is None:
        own = Partition(tuple(str(card.get("phi", "0" * variant.n_agents))))  # type: ignore[arg-type]
        phi = Partition.parse(own, variant.n_agents, variant.n_adversaries)
    if card["n_agents"] != phi.weight:
        raise PolicyError(
            f"{folder} plays {card['n_agents']} adversaries, but phi names {phi.weight}: give --phi to match."
        )
    return phi, policy


@contextlib.contextmanager
def show_progress(title: str) -> Iterator[Callback]:
    """Show a training's progress: a bar with rate and time left in a terminal, elsewhere a line per report."""
    console = default_console()
    bars = make_bars(console)
    task = bars.add_task(title, total=1, note="")
    started = time.monotonic()

    begun = 0  # steps that an earlier session did

    def report(progress: Progress) -> None:
        nonlocal begun
        if progress.note:
            begun = progress.steps
            console.print(progress.note, highlight=False, markup=False, soft_wrap=True)
            return
        seconds = max(time.monotonic() - started, 1e-9)
        rate = (progress.steps - begun) / seconds
        left = (progress.budget - progress.steps) / max(rate, 1e-9)
        note = "  ".join([f"{rate:,.0f} steps/s, {duration(left)} left", *shown_metrics(progress)])
        bars.update(task, completed=progress.steps, total=progress.budget, note=note)
        if not console.is_terminal and progress.metrics:
            console.print(f"{progress.steps:,} of {progress.budget:,} steps: {note}", highlight=False, soft_wrap=True)

    with bars:
        yield report
