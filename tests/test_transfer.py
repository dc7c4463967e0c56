"""Transfer: the same policies in another world, tables and figures; and the robots' loop in the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from documents import blocks

from mir2bench.cli import run
from mir2bench.transfer import main

DOCS = Path(__file__).parents[1] / "docs"


def call(*args: str) -> int:
    return run(main, prog="transfer", args=args)


def test_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    args = ["--policy", "scripted:centroid", "--env", "Rendezvous10-adv1-v0", "--attacker", "flee", "--phi", "3"]
    assert call(*args, "--levels", "0", "1", "--episodes", "2", "--out", str(out)) == 0
    names = {"bars.png", "bars.svg", "trajectories.png", "trajectories.svg", "summary.json"}
    assert names < {path.name for path in out.iterdir()}
    table = pd.read_csv(out / "transfer.csv")
    assert table["world"].tolist() == ["training"] * 2 + ["noise x 0"] * 2 + ["noise x 1"] * 2
    clean = table[table["arm"] == "clean"].set_index("world")
    assert (clean["reached"] == 1.0).all()
    assert clean.loc["training", "return"] > clean.loc["noise x 0", "return"] > clean.loc["noise x 1", "return"]
    assert (table["low"] <= table["return"]).all()
    assert (table["return"] <= table["high"]).all()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["command"].startswith("python -m mir2bench.transfer --policy scripted:centroid")
    assert summary["phi"].index(1) == 3
    episodes = pd.read_csv(out / "episodes.csv")
    assert len(episodes) == 12
    assert episodes["steps"].between(0, 200).all()


def test_targets_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--policy", "scripted:centroid", "--env", "Rendezvous5-adv1-v0", "--attacker", "flee"]
    for more, message in (
        ((), "cannot play mir2bench/RendezvousArena10-adv1-v0"),
        (("--to", "Rendezvous5-adv1-v0", "--levels", "0", "1"), "--levels cannot be set"),
        (("--env", "Rendezvous10-adv1-v0", "--levels", "1", "1"), "different numbers"),
        (("--env", "Rendezvous10-adv1-v0", "--episodes", "0"), "1 or more"),
    ):
        assert call(*args, *more) == 2
        assert message in capsys.readouterr().err


# --- docs/robots.md ---


def test_the_loop_carries_memories(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import torch

    from mir2bench.learning.networks import Actor, ActorShape
    from mir2bench.learning.onnx_graph import actor_graph
    from mir2bench.learning.policy import NetworkPolicy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = NetworkPolicy(Actor(ActorShape(60, 2, False, 8, True)).requires_grad_(False), 10)
    (tmp_path / "gru.onnx").write_bytes(actor_graph(policy))
    space: dict = {}
    loop = next(block for block in blocks("docs/robots.md") if block.language == "python")
    exec(compile(loop.text, "docs/robots.md", "exec"), space)
    act, carry, rng = space["load"](str(tmp_path / "gru.onnx")), policy.initial_carry(1), np.random.default_rng(0)
    for _ in range(4):
        obs = rng.normal(size=(10, 60)).astype(np.float32)
        expected, carry = policy.act(obs[None], carry, rng=rng)
        np.testing.assert_allclose(act(obs), expected[0], rtol=0, atol=1e-6)
