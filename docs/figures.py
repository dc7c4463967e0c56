"""Draws every committed figure again from committed data, without any training: `make figures`.

`RULES` says which figure comes from what; `KEPT` names those that nothing committed can give, and why.
`python docs/figures.py docs/images/attack.gif ...` draws some alone, `--list` names all with their rules.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("gif", "mp4", "png", "svg")

KEPT = {
    "docs/images/a2dec-pomdp.svg": "drawn by hand",
    "docs/images/cheetah.gif": "the trained adversary that it shows was not committed",
    "docs/results/*-halfcheetah2x3-*/figures/*-attack-budget.png": "the curves of its attacks were not committed",
    "docs/results/*-5m_vs_3m-*/figures/*-attack-budget.png": "the curves of its attacks were not committed",
    "docs/results/rendezvous10-embedding-flee/embedding.png": "its policies and points were not committed",
    "docs/results/rendezvous10-transfer/trajectories.png": "its trained adversaries were not committed",
}


def figures() -> list[str]:
    """Return every committed figure, as a path from the root."""
    found = (p for top in ("images", "results") for p in (ROOT / "docs" / top).rglob("*") if p.suffix[1:] in FORMATS)
    return sorted(p.relative_to(ROOT).as_posix() for p in found)


def rule(figure: str) -> Callable[[list[str], Path], None] | None:
    """Return what draws a figure; None if it is kept as it is.

    Raises:
        LookupError: neither, so that somebody has to decide.
    """
    if any(fnmatch(figure, pattern) for pattern in KEPT):
        return None
    for pattern, function in RULES.items():
        if fnmatch(figure, pattern):
            return function
    raise LookupError(f"{figure} has no rule in docs/figures.py: add it to RULES, or with a reason to KEPT.")


def draw(chosen: Iterable[str], root: Path = ROOT) -> list[str]:
    """Draw figures into the tree below `root`, and return which."""
    work: dict[tuple[Any, Path], list[str]] = {}
    for figure in chosen:
        function = rule(figure)
        if function is not None:
            (root / figure).parent.mkdir(parents=True, exist_ok=True)
            work.setdefault((function, Path(figure).parent), []).append(figure)
    for (function, _), names in work.items():
        function(names, root)
    return [name for names in work.values() for name in names]


# --- rules ---


def of_study(names: list[str], root: Path) -> None:
    """From a study's episodes, summary and curves, as its report draws them."""
    from mir2bench.evaluation.figures import draw_all
    from mir2bench.evaluation.outcomes import tabulate
    from mir2bench.evaluation.scores import select
    from mir2bench.registration import spec

    folder = ROOT / Path(names[0]).parents[1]
    summary = numbers(json.loads((folder / "summary.json").read_text()))
    scores = pd.read_parquet(folder / "scores.parquet")
    attacks = folder / "attacks.parquet"
    contenders = summary["study"]["contenders"]
    defenders = [c["name"] for c in contenders]
    for result in summary["results"]:
        variant = spec(result["variant"])
        outcomes = tabulate(
            scores,
            variant.id,
            defenders,
            headline=summary["study"]["protocol"]["headline"],
            scripted=[c["name"] for c in contenders if c["kind"] == "scripted"],
        )
        curves = select(pd.read_parquet(attacks), variant=variant.id) if attacks.exists() else pd.DataFrame()
        with tempfile.TemporaryDirectory() as drawn:
            draw_all(outcomes, result, variant, training_curves(folder, variant.id), curves, Path(drawn))
            for name in names:
                if (made := Path(drawn, Path(name).name)).exists():
                    (root / name).write_bytes(made.read_bytes())
            for name in names:  # of trainings alone, the name is another
                if Path(name).stem == "training-curves":
                    made = max(Path(drawn).glob("*-training*.png"), key=lambda path: len(path.name))  # wins, if known
                    (root / name).write_bytes(made.read_bytes())
    attacked = {Path(result["variant"]).name for result in summary["results"]}
    for name in names:
        trained, found, _ = Path(name).stem.partition("-training-wins")
        if found and trained not in attacked:
            of_training(name, trained, defenders, root)


def of_training(name: str, variant: str, defenders: list[str], root: Path) -> None:
    """Win rates of trainings on a variant that the study does not attack."""
    import matplotlib

    from mir2bench.evaluation.figures import STYLE, training
    from mir2bench.evaluation.scores import select
    from mir2bench.learning.progress import GREEDY_WINS

    curves = select(training_curves(ROOT / Path(name).parents[1], variant), metric=GREEDY_WINS)
    teams: Any = [type("Team", (), {"defender": d}) for d in defenders if (curves["defender"] == d).any()]
    with matplotlib.rc_context(STYLE):
        training(curves, teams, None).savefig(root / name, dpi=150)


def numbers(value: Any) -> Any:
    """Return JSON with NaN for null in lists, where it stands for a bound that there is not."""
    if isinstance(value, dict):
        return {key: numbers(old) for key, old in value.items()}
    if isinstance(value, list):
        return [float("nan") if old is None else numbers(old) for old in value]
    return value


def training_curves(folder: Path, variant: str) -> pd.DataFrame:
    """Return training-curves.csv of one variant with a row for each metric, as figures take it."""
    from mir2bench.learning.progress import GREEDY_RETURN, GREEDY_WINS

    table = pd.read_csv(folder / "training-curves.csv").rename(columns={"value": GREEDY_RETURN})
    if "variant" in table:
        table = table[table["variant"].str.removeprefix("mir2bench/") == variant.removeprefix("mir2bench/")]
    metrics = [m for m in (GREEDY_RETURN, GREEDY_WINS) if m in table]
    return table.melt(["defender", "seed", "steps"], metrics, "metric", "value")


def of_timing(names: list[str], root: Path) -> None:
    """From the table of `analyze timing`."""
    from mir2bench.analysis import timing
    from mir2bench.analysis.output import drawing
    from mir2bench.registration import spec

    folder = ROOT / Path(names[0]).parent
    with drawing():
        figure = timing.draw(pd.read_csv(folder / "timing.csv"), "maddpg", spec("Rendezvous10-adv1-v0"))
        for name in names:
            save(figure, root / name)


def of_shift(names: list[str], root: Path) -> None:
    """From the table of `analyze embedding`."""
    from mir2bench.analysis import embedding
    from mir2bench.analysis.discrepancy import Discrepancy
    from mir2bench.analysis.matches import Matches
    from mir2bench.analysis.output import drawing
    from mir2bench.partition import Partition
    from mir2bench.registration import spec

    folder = ROOT / Path(names[0]).parent
    summary, table = json.loads((folder / "summary.json").read_text()), pd.read_csv(folder / "shift.csv")
    found = []
    for team, rows in table.groupby("policy", sort=False):
        shifts = {
            (r["of"], r["against"]): Discrepancy(
                r["mmd2"],
                (r["mmd2_low"], r["mmd2_high"]),
                r["p_value"],
                r["bandwidth"],
                r["frechet"],
                (r["frechet_low"], r["frechet_high"]),
            )
            for _, r in rows.iterrows()
        }
        found.append(embedding.Embedding(str(team), shifts, pd.DataFrame(), {}))
    variant = spec(summary["variant"] if isinstance(summary["variant"], str) else summary["variant"]["id"])
    phi = Partition(tuple(summary["phi"]))
    matches = Matches(variant, (), phi, summary["attacker"], None, 0, 0)
    with drawing():
        for name in names:
            save(embedding.draw_shifts(found, matches), root / name)


def of_transfer(names: list[str], root: Path) -> None:
    """From the table of `transfer`."""
    from mir2bench import transfer
    from mir2bench.analysis.output import drawing

    table = pd.read_csv(ROOT / Path(names[0]).parent / "transfer.csv")
    with drawing():
        for name in names:
            save(transfer.draw_bars(table), root / name)


def of_film(names: list[str], root: Path) -> None:
    """From a published team and the adversary in docs/images/adversaries, whose `policy.json` tells how it was made."""
    from mir2bench.render import Options, main

    for name in names:
        team, adversary, seed, every, fps = FILMS[name]
        main(
            Options(
                policy=str(ROOT / "baselines" / team / "seed0"),
                attacker=str(ROOT / "docs" / "images" / "adversaries" / adversary),
                out=root / name,
                seed=seed,
                every=every,
                fps=fps,
            )
        )


FILMS = {
    "docs/images/attack.gif": ("mir2/Rendezvous10-adv1-v0", "rendezvous", 1, 2, 20),
    "docs/images/traitor.gif": ("maddpg/Skirmish-4m_vs_3m-adv1-v0", "skirmish", 0, 1, 4),
}
"""Team, adversary, seed of the start, every n-th step, and frames per second."""


def save(figure: Any, path: Path) -> None:
    """Write a figure as `analyze` does."""
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


RULES: dict[str, Callable[[list[str], Path], None]] = {
    **dict.fromkeys(FILMS, of_film),
    "docs/results/*/figures/*.png": of_study,
    "docs/results/*-timing/timing.*": of_timing,
    "docs/results/*-embedding-*/shift.png": of_shift,
    "docs/results/*-transfer/bars.png": of_transfer,
}


def main(words: list[str]) -> int:
    """Draw the figures that are named, or all; return the exit status."""
    if words == ["--list"]:
        for figure in figures():
            function = rule(figure)
            why = next((why for pattern, why in KEPT.items() if fnmatch(figure, pattern)), "")
            print(f"{figure}: {function.__doc__ if function else f'kept, {why}'}")
        return 0
    for name in draw(words or figures()):
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
