"""One attacked episode of an entry, drawn for its page: everybody's path, or the last frame where there are none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from mir2bench.attackers import fixed_attackers
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.evaluation.files import replace_file
from mir2bench.leaderboard.entry import PICTURE, POLICIES, VERIFIED, Entry, read_entry
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import load_policy
from mir2bench.registration import spec
from mir2bench.views.common import load_drawing, load_trajectories

_SEED = 2_000_000_000  # of the start; nobody is scored on it


def picture_task(folder: str, attacker: str, phi: str) -> None:
    """Draw one episode of the entry's first policy under an attacker that needs no training.

    Args:
        folder: the entry; the picture becomes its `verified/episode.png`.
        attacker: the strongest of those attackers there.
        phi: N zeros and ones.
    """
    entry = read_entry(Path(folder))
    variant, partition = spec(entry.variant), Partition(tuple(map(int, phi)))
    team = (
        make_scripted(variant, entry.method.algorithm)
        if entry.method.kind == "scripted"
        else load_policy(Path(folder) / POLICIES / f"seed{min(entry.training.seeds)}", variant)
    )
    adversary = fixed_attackers(variant)[attacker].attack(variant, team, partition, seed=0, budget=0)
    history: list[dict[str, np.ndarray]] = []
    played = rollout(
        variant, team, partition, adversary, [_SEED], watch=lambda worlds: history.append(worlds.engine.snapshot(0))
    )
    title = f"{attacker}, adversaries {partition.label}: return {played.returns[0]:.1f}"
    paths = load_trajectories(variant.engine_class.drawing)
    if paths is None:
        from PIL import Image

        content = io.BytesIO()
        image = load_drawing(variant.engine_class.drawing)(history, partition.to_array(), variant)
        Image.fromarray(image).save(content, "png")
    else:
        content = _draw(lambda axes: paths(history, partition.to_array(), variant, axes), title)
    replace_file(Path(folder) / VERIFIED / PICTURE, lambda temporary: temporary.write_bytes(content.getvalue()))


def strongest_script(entry: Entry, scores: dict[str, Any]) -> tuple[str, str] | None:
    """Return the strongest attacker without training and the first verified partition; None if nobody attacks."""
    fixed = [name for name in fixed_attackers(spec(entry.variant)) if name in scores["attackers"]]
    if not fixed:
        return None
    return min(fixed, key=lambda name: scores["attackers"][name]["mean"]), scores["cells"][0]["phi"]


def _draw(paint: Any, title: str) -> io.BytesIO:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    paint(axes)
    axes.set_title(title, fontsize=10)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content
