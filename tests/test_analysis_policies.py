"""Analyses of given policies: representations and trajectories, clean against attacked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

import mir2bench
from mir2bench import analyze
from mir2bench.analysis import behavior, embedding
from mir2bench.analysis.discrepancy import FrechetDistance, compare, median_distance, pair_matrix, weighted_mmd2
from mir2bench.analysis.matches import MatchOptions, check_sides, load_matches
from mir2bench.analysis.representations import Recording, check_network, draw_cells, record
from mir2bench.attackers import make_attacker
from mir2bench.engines.rendezvous_drawing import draw_trajectories
from mir2bench.errors import PartitionError, PolicyError
from mir2bench.learning.architectures import SeparateActors, SeparateShape
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.learning.progress import Progress
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import Policy, save_policy

SMALL = "Rendezvous5-adv1-v0"
SCRIPT = ["--policy", "scripted:centroid", "--env", SMALL]


def network(variant: str, n_agents: int | None = None, *, recurrent: bool = False, seed: int = 0) -> NetworkPolicy:
    """An untrained team, or untrained adversaries."""
    spec = mir2bench.spec(variant)
    layout = spec.layout
    shape = ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, 8, recurrent)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = Actor(shape)
    return NetworkPolicy(actor, n_agents or spec.n_agents)


def bundle(folder: Path, variant: str, n_agents: int | None = None, *, seed: int = 0, phi: str | None = None) -> Path:
    extra = {} if phi is None else {"phi": phi}
    policy = network(variant, n_agents, seed=seed)
    return save_policy(
        policy, folder, variant=mir2bench.spec(variant), algorithm="maddpg", config={}, seed=seed, extra=extra
    )


def call(*args: object) -> int:
    return analyze.main([str(a) for a in args])


# --- discrepancy ---


def test_mmd_of_two_episodes_by_hand() -> None:
    x, y = np.array([[[0.0]], [[1.0]]]), np.array([[[2.0]], [[3.0]]])
    assert median_distance(np.array([[0.0], [1.0], [2.0], [3.0]])) == 1.5  # of 1, 1, 1, 2, 2, 3
    # k(0, 1) + k(2, 3) - k(0, 3) - k(2, 1) with k = exp(-d^2 / 4.5): the distances 1 and 1 cancel one another.
    by_hand = np.exp(-1 / 4.5) - np.exp(-9 / 4.5)
    assert compare(x, y, seed=0).mmd2 == pytest.approx(by_hand, abs=1e-12)
    assert compare(x, y, seed=0).bandwidth == 1.5


def test_mmd_averages_over_the_points_of_episodes_and_leaves_out_pairs_of_the_same_episode() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 2, 2))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-((u - v) ** 2).sum() / (2 * 0.7**2)) for u in a for v in b]))

    pairs = [(e, f) for e in range(3) for f in range(3) if e != f]
    naive = np.mean([k(x[e], x[f]) + k(y[e], y[f]) - k(x[e], y[f]) - k(y[e], x[f]) for e, f in pairs])
    assert weighted_mmd2(pair_matrix(x, y, 0.7), np.ones((1, 3)))[0] == pytest.approx(naive, abs=1e-12)


def test_mmd_of_shifted_gaussians_is_the_analytic_one() -> None:
    dim, shift, bandwidth = 3, 0.8, 2.0
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 400, 2, dim))
    y[..., 0] += shift
    spread = bandwidth**2 + 2  # of the kernel widened by two unit Gaussians
    exact = 2 * (bandwidth**2 / spread) ** (dim / 2) * (1 - np.exp(-(shift**2) / (2 * spread)))
    measured = weighted_mmd2(pair_matrix(x, y, bandwidth), np.ones((1, 400)))[0]
    assert exact == pytest.approx(0.0565, abs=1e-4)
    assert measured == pytest.approx(exact, rel=0.1)


def test_equal_distributions_are_near_zero_though_points_of_an_episode_resemble_each_other() -> None:
    rng = np.random.default_rng(2)
    found = []
    for repetition in range(40):
        # Each episode has its own center, nearly all that varies; a measure over points would call it a shift.
        x, y = (rng.normal(size=(12, 1, 2)) + 0.1 * rng.normal(size=(12, 8, 2)) for _ in range(2))
        found.append(compare(x, y, seed=repetition))
    mmd2, frechet = np.array([f.mmd2 for f in found]), np.array([f.frechet for f in found])
    assert abs(mmd2.mean()) < 2.5 * mmd2.std() / np.sqrt(len(mmd2))
    assert abs(frechet.mean()) < 0.05
    assert np.mean([f.p_value < 0.05 for f in found]) < 0.15
    assert np.mean([f.frechet_ci[0] <= 0 for f in found]) > 0.85


def test_the_same_episodes_do_not_differ_at_all() -> None:
    x = np.random.default_rng(3).normal(size=(5, 4, 3))
    same = compare(x, x, seed=0)
    assert (same.mmd2, same.mmd2_ci, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert same.frechet == pytest.approx(0.0, abs=1e-9)


def test_a_clear_shift_has_the_smallest_p_value_and_an_interval_above_zero() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 20, 5, 2))
    shifted = compare(x, y + 1.5, seed=0)
    assert shifted.p_value == 1 / 1001
    assert 0 < shifted.mmd2_ci[0] < shifted.mmd2 < shifted.mmd2_ci[1]
    assert shifted.frechet_ci[0] < 2 * 1.5**2 / 2 < shifted.frechet_ci[1]
    assert shifted == compare(x, y + 1.5, seed=0)


def test_more_points_of_the_same_moments_do_not_narrow_the_intervals() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 10, 4, 2)) + np.array([0.0, 0.5])[:, None, None, None]
    once, often = compare(x, y, seed=0), compare(np.tile(x, (1, 6, 1)), np.tile(y, (1, 6, 1)), seed=0)
    width = [np.diff(found.frechet_ci)[0] for found in (once, often)]
    assert width[1] == pytest.approx(width[0], rel=1e-9)
    bandwidth = once.bandwidth
    tiled = pair_matrix(np.tile(x, (1, 6, 1)), np.tile(y, (1, 6, 1)), bandwidth)
    assert tiled == pytest.approx(pair_matrix(x, y, bandwidth), abs=1e-12)


def test_frechet_distance_of_gaussians_is_the_analytic_one_and_has_no_unit() -> None:
    # Four points with mean 0 and covariance 1/2 in both directions; y is twice as wide and moved by (3, 0).
    x = np.array([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    y = 2 * x + np.array([3.0, 0.0])
    exact = (9 + 2 * (np.sqrt(2) - np.sqrt(0.5)) ** 2) / 1.0
    assert FrechetDistance(x, y)(np.ones(1)) == pytest.approx(exact, abs=1e-9)
    assert FrechetDistance(7 * x, 7 * y)(np.ones(1)) == pytest.approx(exact, abs=1e-9)


def test_points_that_do_not_vary_have_no_frechet_distance() -> None:
    still = np.ones((4, 3, 2))
    found = compare(still, still, seed=0)
    assert (found.mmd2, found.bandwidth) == (0.0, 1.0)
    assert np.isnan([found.frechet, *found.frechet_ci]).all()
    mostly = np.zeros((5, 1))
    mostly[0] = 1.0
    assert median_distance(mostly) == 0.4  # the mean, since the median is 0


# --- representations ---


@pytest.mark.parametrize("recurrent", [False, True])
def test_recorded_features_are_those_of_the_defenders_at_what_they_saw(recurrent: bool, toy: list[str]) -> None:
    variant = mir2bench.spec("Toy3-adv1-v0")
    team = network(variant.id, recurrent=recurrent)
    phi, adversary = Partition.of(3, [1]), network(variant.id, 1, seed=1)
    found = record(variant, team, "it", [0, 2], phi, adversary, [5, 6, 7])
    plain = rollout(variant, team, phi, adversary, [5, 6, 7])
    assert (found.lengths == plain.lengths).all()
    assert found.returns == pytest.approx(plain.returns)
    ids = np.eye(3)[[0, 2]]
    assert (found.obs[..., 1:] == ids).all()  # the adversary is not among them
    for episode, length in enumerate(found.lengths):
        memory = torch.zeros(2, 8) if recurrent else None
        for step in range(length):
            expected = team.actor.features(torch.from_numpy(found.obs[episode, step]), memory)
            assert found.features[episode, step] == pytest.approx(expected.detach().numpy(), abs=1e-6)
            memory = expected if recurrent else None


def test_cells_lie_in_both_episodes_and_are_different() -> None:
    def recording(lengths: list[int]) -> Recording:
        values = np.arange(2 * 9 * 3, dtype=np.float32).reshape(2, 9, 3, 1)
        return Recording(values, values, np.array(lengths), np.zeros(2))

    a, b = recording([4, 9]), recording([9, 6])
    cells = draw_cells(a, b, 100, np.random.default_rng(0))
    assert cells.steps.shape == (2, 12)  # all 4 * 3 of the shorter
    assert (cells.steps.max(axis=1) < [4, 6]).all()
    taken = cells.take(a.obs)[..., 0]
    assert [len(set(row)) for row in taken] == [12, 12]
    assert (taken == a.obs[np.arange(2)[:, None], cells.steps, cells.agents, 0]).all()
    assert draw_cells(a, b, 5, np.random.default_rng(1)).steps.shape == (2, 5)


def test_embedding_writes_tables_and_figures_that_depend_on_the_seed_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teams = [bundle(tmp_path / f"team{s}", SMALL, seed=s) for s in (0, 1)]
    sizes = ["--episodes", 4, "--points", 6, "--perplexity", 5]
    common = ["embedding", "--policy", *teams, "--attacker", "flee", "--phi", "2", *sizes]
    for out in ("a", "b"):
        assert call(*common, "--out", tmp_path / out) == 0
    assert "Shift of the defenders under flee, phi 2" in capsys.readouterr().out
    for name in ("shift.csv", "points.csv", "embedding.png", "shift.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    points = pd.read_parquet(tmp_path / "a" / "points.parquet")
    assert set(points["policy"]) == {"maddpg seed 0", "maddpg seed 1"}
    assert set(points["agent"]) == {0, 1, 3, 4}
    assert (points.groupby(["policy", "arm", "seed"]).size() == 6).all()
    clean, attacked = (
        points[points["arm"] == arm][["policy", "seed", "step", "agent"]] for arm in ("clean", "attacked")
    )
    assert (clean.to_numpy() == attacked.to_numpy()).all()  # the same agents at the same steps
    shift = pd.read_csv(tmp_path / "a" / "shift.csv")
    assert shift.groupby(["of", "against"]).size().to_dict() == {
        (of, against): 2 for of in ("representations", "observations") for against in ("attacked", "clean again")
    }
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["phi"] == [0, 0, 1, 0, 0]
    assert summary["shift"][0]["mmd2"] == pytest.approx(shift["mmd2"][0])


def test_an_adversary_that_behaves_like_the_team_shifts_nothing(tmp_path: Path) -> None:
    team = bundle(tmp_path / "team", SMALL)
    double = bundle(tmp_path / "double", SMALL, 1, phi="00010")  # the same network, which reads the agent's id
    sizes = ["--episodes", 3, "--points", 4, "--perplexity", 4]
    assert call("embedding", "--policy", team, "--adversary", double, *sizes, "--out", tmp_path / "out") == 0
    shift = pd.read_csv(tmp_path / "out" / "shift.csv")
    attacked = shift[shift["against"] == "attacked"]
    assert attacked["mmd2"].abs().max() < 1e-9
    assert (attacked["p_value"] > 0.1).all()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["phi"] == [0, 0, 0, 1, 0]


def test_tsne_keeps_clusters_apart() -> None:
    rng = np.random.default_rng(6)
    points = np.concatenate([rng.normal(0, 0.1, (20, 5)), rng.normal(3, 0.1, (20, 5))])
    plane = embedding.tsne(points, 5.0, 0)
    assert plane.shape == (40, 2)
    assert np.array_equal(plane, embedding.tsne(points, 5.0, 0))
    centers = plane[:20].mean(axis=0), plane[20:].mean(axis=0)
    inside = max(np.linalg.norm(half - c, axis=1).max() for half, c in zip(np.split(plane, 2), centers, strict=True))
    assert np.linalg.norm(centers[0] - centers[1]) > inside


def test_networks_that_agents_do_not_share_are_refused() -> None:
    layout = mir2bench.spec(SMALL).layout
    with torch.random.fork_rng(devices=[]):
        actors = SeparateActors(SeparateShape(layout.obs_dim, layout.action_dim, layout.discrete, 8, 5))
    with pytest.raises(PolicyError, match="it has no network that its agents share"):
        check_network(NetworkPolicy(actors, 5), "it")


# --- behavior ---


def test_trajectories_are_those_that_the_environment_plays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["behavior", *SCRIPT, "--attacker", "flee", "--phi", "2", "--seed-of-episode", 3, 8, "--gif"]
    assert call(*command, "--every", 60, "--out", out) == 0
    table, steps = pd.read_csv(out / "trajectories.csv"), pd.read_csv(out / "steps.csv")
    env = gymnasium.make(f"mir2bench/{SMALL}")
    variant = mir2bench.spec(SMALL)
    team: Policy = behavior.load_matches(MatchOptions(("scripted:centroid",), SMALL, "2", "flee")).teams[0].policy
    traitor = make_attacker("flee", variant).attack(variant, team, Partition.of(5, [2]), seed=0, budget=1)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=8, options={"phi": [0, 0, 1, 0, 0]})
    poses, rewards, over = [env.unwrapped.worlds.engine.snapshot(0)["poses"]], [], False  # type: ignore[attr-defined]
    while not over:
        actions = team.act(obs[None], None, rng=rng)[0][0].copy()
        actions[2] = traitor.act(obs[None, 2:3], None, rng=rng)[0][0, 0]
        obs, reward, terminated, truncated, _ = env.step(actions)
        poses.append(env.unwrapped.worlds.engine.snapshot(0)["poses"])  # type: ignore[attr-defined]
        rewards.append(float(reward))
        over = terminated or truncated
    mine = table[(table["seed"] == 8) & (table["arm"] == "attacked")]
    assert mine[["poses_0", "poses_1", "poses_2"]].to_numpy() == pytest.approx(np.concatenate(poses))
    assert mine["phi"].to_numpy().reshape(-1, 5)[0].tolist() == [0, 0, 1, 0, 0]
    assert (mine["step"].max(), mine["agent"].max()) == (len(rewards), 4)
    earned = steps[(steps["seed"] == 8) & (steps["arm"] == "attacked")]["reward"].to_numpy()
    assert np.isnan(earned[0])
    assert earned[1:] == pytest.approx(rewards)
    starts = table[table["step"] == 0].groupby(["seed", "agent"])[["poses_0", "poses_1"]].nunique()
    assert (starts == 1).all(axis=None)  # clean and attacked episodes start alike
    clean = table[table["arm"] == "clean"]
    assert (clean["phi"] == 0).all()
    assert {p.name for p in out.glob("*.png")} == {"behavior-episode3.png", "behavior-episode8.png"}
    with Image.open(out / "scripted-centroid-episode8.gif") as film:
        assert (film.n_frames, film.size) == (4, (1024, 544))  # steps 0, 60, 120, and the last of the longer one


def test_episodes_that_end_early_are_cut_there_and_other_families_show_frames(toy: list[str], tmp_path: Path) -> None:
    team, traitor = bundle(tmp_path / "team", "Toy3-adv1-v0"), bundle(tmp_path / "traitor", "Toy3-adv1-v0", 1)
    command = ["behavior", "--policy", team, "--adversary", traitor, "--phi", "1"]
    assert call(*command, "--seed-of-episode", 1, 2, 3, "--out", tmp_path / "out") == 0
    steps = pd.read_csv(tmp_path / "out" / "steps.csv")
    for (arm, seed), part in steps.groupby(["arm", "seed"]):
        phi = Partition.of(3, [1] if arm == "attacked" else [])
        matches = load_matches(MatchOptions((str(team),), phi="1", adversary=traitor))
        played = rollout(
            matches.variant, matches.teams[0].policy, phi, matches.adversary if phi.weight else None, [seed]
        )
        assert part["step"].tolist() == list(range(played.lengths[0] + 1))
        assert part["reward"].sum() == pytest.approx(played.returns[0])
    assert len(set(steps.groupby(["arm", "seed"]).size())) > 1
    assert (tmp_path / "out" / "behavior-episode2.png").stat().st_size > 1000


def test_what_is_not_an_agents_goes_to_the_table_of_steps() -> None:
    history = [
        {"allies": np.full((2, 3), t), "health": np.arange(2) + t, "enemies": np.full((3, 2), -t)} for t in (0, 1)
    ]
    episode = behavior.Episode("it", "attacked", 0, np.array([0, 1], np.int8), history, np.array([-1.5]))
    agents, steps = behavior.trajectories(episode), behavior.steps(episode)
    assert list(agents)[6:] == ["allies_0", "allies_1", "allies_2", "health"]
    assert agents["allies_1"].tolist() == [0, 0, 1, 1]
    assert agents["health"].tolist() == [0, 1, 1, 2]
    assert list(steps)[5:] == [f"enemies_{i}" for i in range(6)]
    assert steps["enemies_5"].tolist() == [0, -1]


def test_rendezvous_draws_paths_in_the_papers_colors_with_stars_at_their_ends() -> None:
    history = [{"poses": np.array([[10.0 + t, 20, 0], [50, 60.0 + t, 0], [90, 90, 0]])} for t in range(4)]
    axes = Figure().add_subplot()
    draw_trajectories(history, np.array([0, 1, 0]), mir2bench.spec(SMALL), axes)
    paths = [line for line in axes.lines if len(line.get_xdata()) == 4]
    stars = [line for line in axes.lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [to_hex(p.get_color()) for p in paths] == ["#e69f00", "#e69f00", "#0072b2"]  # the adversary last, on top
    assert [(s.get_xdata()[0], s.get_ydata()[0]) for s in stars] == [(13, 20), (90, 90), (50, 63)]
    assert axes.get_legend_handles_labels()[1] == ["defender", "adversary", "start", "end"]


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["embedding", *SCRIPT, "--attacker", "flee"],
            "scripted:centroid has no network that its agents share, so it has no",
        ),
        (
            ["behavior", *SCRIPT, "--attacker", "flee", "--phi", "none"],
            "needs at least one adversary, but phi names none",
        ),
        (["behavior", *SCRIPT, "--attacker", "flee", "--phi", "00000"], "needs at least one adversary"),
        (["behavior", *SCRIPT, "--attacker", "flee", "--phi", "11111"], "phi names 5 adversaries, but this variant"),
        (["behavior", *SCRIPT, "--attacker", "fle"], "No attacker `fle`. Did you mean `flee`"),
        (["behavior", "--policy", "scripted:centroid"], "name one with --env"),
        (["behavior", "--policy", "--env", SMALL], "--policy names no policy"),
        (["behavior", "--policy", "nowhere"], "nowhere is not a policy bundle"),
        (["behavior", *SCRIPT, "--attacker", "flee", "--adversary", "x"], "give --attacker or --adversary, not both"),
        (["behavior", *SCRIPT, "--adversary", "x"], "x is not a policy bundle"),
        (["behavior", *SCRIPT, "--budget", "huge"], "No budget `huge`"),
        (["behavior", *SCRIPT, "--seed", "-1"], "--seed must be 0 or more"),
        (["behavior", *SCRIPT, "--every", "0"], "--every must be 1 or more"),
        (["behavior", *SCRIPT, "--seed-of-episode"], "--seed-of-episode names no seed"),
        (["behavior", *SCRIPT, "--seed-of-episode", "2", "-3"], "must hold numbers of 0 or more, not -3"),
        (["behavior", *SCRIPT, "--seed-of-episode", "2", "2"], "names a seed twice: 2, 2"),
        (["behavior", "--policy", "scripted:centroid", "--env", "Rendezvous5-adv0-v0"], "needs at least one adversary"),
        (["embedding", *SCRIPT, "--episodes", "1"], "--episodes must be 2 or more"),
        (["embedding", *SCRIPT, "--points", "0"], "--points must be 1 or more"),
        (["embedding", *SCRIPT, "--episodes", "2", "--points", "2"], "below the number of points, here 8, not 30"),
        (["embedding", *SCRIPT, "--perplexity", "nan"], "--perplexity must be 1 or more"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bundles_of_another_world_or_of_the_wrong_side_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    team, large = bundle(tmp_path / "team", SMALL), bundle(tmp_path / "large", "Rendezvous10-adv1-v0")
    alone = bundle(tmp_path / "alone", SMALL, 1, phi="01000")
    strange = bundle(tmp_path / "strange", SMALL, 1, phi="0?000")
    of_ten = bundle(tmp_path / "of_ten", "Rendezvous10-adv1-v0", 1, phi="0100000000")
    for arguments, message in (
        (["--policy", team, large, "--attacker", "flee"], "which cannot play mir2bench/Rendezvous5-adv1-v0"),
        (["--policy", team, "--adversary", of_ten], "which cannot play mir2bench/Rendezvous5-adv1-v0"),
        (["--policy", alone, "--attacker", "flee"], "adversaries, not a team of 5"),
        (["--policy", team, "--adversary", team], "plays 5 adversaries, but phi names 0: give --phi to match"),
        (["--policy", team, "--adversary", strange], "phi must hold only 0 (defender) and 1 (adversary)"),
        (["--policy", team, "--adversary", alone, "--phi", "none"], "plays 1 adversaries, but phi names 0"),
    ):
        for analysis in ("embedding", "behavior"):
            assert call(analysis, *arguments, "--out", tmp_path / "out") == 2
            assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_somebody_must_be_left_to_defend() -> None:
    check_sides(Partition.of(3, [0, 2]))
    with pytest.raises(PartitionError, match="names all 3 agents as adversaries: no defender is left"):
        check_sides(Partition.of(3, [0, 1, 2]))


def test_policies_get_names_that_tell_them_apart(tmp_path: Path) -> None:
    twice = [str(bundle(tmp_path / name, SMALL)) for name in ("a", "b")]
    found = load_matches(MatchOptions((*twice, "scripted:centroid"), attacker="flee"))
    assert [team.name for team in found.teams] == ["maddpg seed 0", "maddpg seed 0 (2)", "scripted:centroid"]
    assert found.phi == Partition.of(5, [0])  # the first K agents


def test_an_attacker_that_learns_is_trained_against_each_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def attack(self: Any, variant: Any, victim: Policy, phi: Partition, **given: Any) -> Policy:
        given.pop("callback")(Progress(given["budget"], given["budget"], {}))
        calls.append((victim, phi, given))
        return network(SMALL, phi.weight)

    monkeypatch.setattr("mir2bench.attackers.learned.LearnedAttacker.attack", attack)
    teams = [str(bundle(tmp_path / f"team{s}", SMALL, seed=s)) for s in (0, 1)]
    matches = load_matches(MatchOptions(tuple(teams), phi="4", budget="300", seed=7))
    assert (matches.attacker, matches.trained, matches.to_dict()["attack_steps"]) == ("learned", True, 300)
    for team in matches.teams:
        matches.attack(team)
    settings = {"seed": 7, "budget": 300}
    assert calls == [(team.policy, Partition.of(5, [4]), settings) for team in matches.teams]


# --- documents ---

DOCS = Path(__file__).parent.parent / "docs"


def test_every_claim_has_a_row_and_a_section() -> None:
    text = (DOCS / "claims.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \[(.+?)\]\(#(.+?)\)", text, re.MULTILINE)
    sections = re.findall(r"^## (\d+)\. (.+)$", text, re.MULTILINE)
    assert [(n, title) for n, title, _ in rows] == sections
    for (number, title), (_, _, anchor) in zip(sections, rows, strict=True):
        assert anchor == re.sub(r"[^\w\- ]", "", f"{number}. {title}").lower().replace(" ", "-")
