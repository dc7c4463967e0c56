"""The analyses that are built on studies, and the timing: numbers that can be computed by hand, and bad input."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import tyro
from evaluation_stubs import ATTACKER, BUDGET, PROTOCOL, StubDefender, tally
from games import Match, game

import mir2bench
from mir2bench import analyze
from mir2bench.analysis import ablation, adversaries, overfit, per_agent, studies, timing
from mir2bench.analysis.options import StudyOptions, command_line
from mir2bench.attackers import make_attacker
from mir2bench.errors import NotApplicableError
from mir2bench.evaluation import files, protocol, statistics
from mir2bench.evaluation import study as study_module
from mir2bench.evaluation.contenders import Contender
from mir2bench.evaluation.outcomes import Outcome, tabulate
from mir2bench.evaluation.scores import COLUMNS
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.partition import Partition
from mir2bench.policies import save_policy

HERE = "test_analysis_studies"
THREE, THREE_TWO = tally(1, 3), tally(2, 3)
SMALL = ("--env", THREE.id, "--budget", "stub", "--workers", "1")


@pytest.fixture(autouse=True)
def _stubs(fresh_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world, a budget and a protocol in which nothing takes time."""
    mir2bench.register(THREE)
    mir2bench.register(THREE_TWO)
    monkeypatch.setitem(protocol.BUDGETS, "stub", BUDGET)
    monkeypatch.setitem(protocol.PROTOCOLS, "stub-v1", PROTOCOL)
    monkeypatch.setattr(study_module, "write_report", lambda *_: None)  # has its own tests
    monkeypatch.setattr(statistics, "REPETITIONS", 50)
    monkeypatch.setattr(files, "_sync", lambda _: None)  # no machine crashes here


class Level(StubDefender):
    """Every agent plays tanh(gain), whatever it sees; `broken` gains cannot be trained."""

    broken: ClassVar[set[float]] = set()

    def train(self, variant: Any, *, seed: int, budget: int, callback: Any = None) -> Any:
        if self.config.gain in self.broken:
            raise ZeroDivisionError("the stub was told to fail")
        return level(variant, variant.n_agents, self.config.gain)


class Prepared(Level):
    """Level, and it ships an adversary that plays tanh(gain / 2)."""

    def train(self, variant: Any, **rest: Any) -> Any:
        policy = super().train(variant, **rest)
        policy.training_adversary = level(variant, 1, self.config.gain / 2)
        return policy


def level(variant: Any, n_agents: int, gain: float) -> NetworkPolicy:
    layout = variant.layout
    with torch.random.fork_rng(devices=[]):
        actor = Actor(ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, 4, False))
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.zero_()
        list(actor.parameters())[-1].fill_(gain)
    return NetworkPolicy(actor.requires_grad_(False), n_agents)


LEVEL, PREPARED = f"{HERE}:Level", f"{HERE}:Prepared"


def call(*args: object) -> int:
    return analyze.main([str(a) for a in args])


def lengths(out: Path) -> float:
    """The mean length of the evaluation episodes, which are the same in all cells."""
    scores = pd.read_parquet(out / "study" / "scores.parquet")
    assert scores.groupby("episode")["length"].nunique().eq(1).all()
    return float(scores["length"].mean())


# --- command line ---


class TestCommandLine:
    def test_help_lists_all_and_unknown_names_are_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in ([], ["--help"], ["-h"]):
            assert call(*arguments) == 0
            text = capsys.readouterr().out
            assert re.findall(r"^  (\S+) +\S", text.partition("Examples")[0], re.MULTILINE) == sorted(analyze.ANALYSES)
        assert call("per_agnet") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: No analysis `per_agnet`. Did you mean `per-agent`?")
        assert error.count("\n") == 1

    @pytest.mark.parametrize("name", analyze.ANALYSES)
    def test_help_has_examples_that_parse_and_explains_every_option(
        self, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            call(name, "--help")
        assert caught.value.code == 0
        text = capsys.readouterr().out
        module = __import__(f"mir2bench.analysis.{name.replace('-', '_')}", fromlist=["run"])
        flags = re.findall(r"^\W*--([a-z][a-z-]+)", text, re.MULTILINE)
        fields = {f.name.replace("_", "-") for f in dataclasses.fields(module.Options)}
        assert set(flags) == {"set" if f == "settings" else f for f in fields}
        seen: list[Any] = []

        def record(options: Any) -> None:
            seen.append(options)

        record.__annotations__["options"] = Annotated[module.Options, tyro.conf.arg(name="")]
        monkeypatch.setattr(module, "run", record)
        examples = re.findall(r"^  python -m mir2bench\.analyze (.*)$", module.DESCRIPTION, re.MULTILINE)
        for example in examples:
            assert call(*example.split()) == 0
        assert len(seen) == len(examples) >= 3

    def test_the_command_in_the_summary_leaves_out_where_and_how_fast(self) -> None:
        options = ablation.Options(seeds=3, out=Path("x"), workers=2, resume=True, values=("0", "1"), settings=("a=1",))
        assert command_line("ablation", options) == (
            "python -m mir2bench.analyze ablation --seeds 3 --values 0 1 --set a=1"
        )
        assert command_line("timing", StudyOptions()) == "python -m mir2bench.analyze timing"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("ablation --env Rendezvous10-adv0-v0", "Choose mir2bench/Rendezvous10-adv1-v0 or"),
            ("ablation --env Rendezvus10-adv1-v0", "No variant `Rendezvus10-adv1-v0`. Did you mean"),
            ("ablation --algo maddpg", "No setting of maddpg `lam`"),
            ("ablation --algo mir3", "No defender `mir3`"),
            ("ablation --setting lamb", "No setting of mir2 `lamb`. Did you mean `lam`"),
            ("ablation --setting recurrent", "recurrent of mir2 is no number (False)"),
            ("ablation --setting noise", "which values shall noise take? Name them: --values 0.2"),
            ("ablation --values 0.1 1e-1", "the value 0.1 of lam is given twice"),
            ("ablation --values 0.1 many", "lam must be of type float"),
            ("ablation --values -1", "lam must be a finite number of 0 or more"),
            ("ablation --budget quik", "No budget `quik`. Did you mean `quick`"),
            ("ablation --seeds 0", "defender_seeds must be 1 or more, but it is 0"),
            ("ablation --workers 0", "--workers must be 1 or more, but it is 0"),
            ("ablation --resume", "--resume needs --out"),
            ("adversaries --counts 0 1", "must be distinct and from 1 to 9"),
            ("adversaries --counts 10", "but they are 10"),
            ("adversaries --counts 2 2", "but they are 2, 2"),
            ("adversaries --algo scripted:centrod", "No scripted team of Rendezvous `centrod`"),
            ("adversaries --policy nowhere", "nowhere is not a policy bundle"),
            ("overfit --env Rendezvous10-adv0-v0", "has no adversaries, so there is nothing to attack"),
            ("overfit --algo scripted:idle", "scripted:idle ships neither a critic nor an adversary"),
            ("per-agent --study nowhere", "nowhere holds no finished study (FileNotFoundError"),
            ("per-agent --env Rendezvous10-adv0-v0", "has no adversaries, so there is nothing to attack"),
            ("timing --algo mir3", "No defender `mir3`"),
            ("timing --epochs 0", "--epochs must be 1 or more, but it is 0"),
            ("timing --batch-episodes 0", "--batch-episodes must be 1 or more"),
            ("timing --algo maddpg maddpg", "each defender is named once"),
            ("timing --algo evaluation_stubs:StubDefender", "does not share our training loop"),
        ],
    )
    def test_bad_input_is_one_line_and_nothing_is_begun(
        self,
        arguments: str,
        message: str,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert call(*arguments.split()) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error
        assert list(tmp_path.iterdir()) == []

    def test_folders_with_other_content_are_left_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "thesis.tex").touch()
        for extra in ([], ["--resume"]):
            assert call("ablation", *SMALL, "--out", tmp_path, *extra) == 2
            assert re.search("not empty|holds no analysis", capsys.readouterr().err)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


# --- ablation ---


ABLATION = ("ablation", *SMALL, "--algo", LEVEL, "--setting", "gain", "--protocol", "stub-v1")


class TestAblation:
    def test_numbers_by_hand_files_and_terminal(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "ablation"
        assert call(*ABLATION, "--values", "0.5", "0", "--out", out) == 0
        text = capsys.readouterr().out
        table = pd.read_parquet(out / "ablation.parquet")
        steps = lengths(out)
        assert table["value"].tolist() == [0.0, 0.5, 0.0, 0.5]
        assert table["arm"].tolist() == ["none", "none", "robust", "robust"]
        # All teams of a gain are the same, so the interval over seeds is the mean itself.
        expected = [0.0, steps * np.tanh(0.5)]
        for column in ("mean", "low", "high"):
            np.testing.assert_allclose(table[column][:2], expected, atol=1e-6)
        assert table["seeds"].tolist() == [2] * 4
        assert table["partitions"].tolist() == [0, 0, 3, 3]
        # One agent of three plays -1, the others tanh(gain).
        cells = pd.read_csv(out / "ablation-cells.csv", dtype={"phi": str})
        spoiled = cells[cells["arm"] == "spoil"].groupby("value")["return"].mean()
        np.testing.assert_allclose(spoiled, [-steps / 3, steps * (2 * np.tanh(0.5) - 1) / 3], atol=1e-6)
        # Value, seed, partition: a clean cell, and four attackers, "robust" and "worst" for each of three.
        assert len(cells) == 2 * 2 * (1 + 3 * 6)
        assert cells["phi"].map(len).eq(3).all()
        worst = cells[cells["arm"] == "worst"]
        assert (worst["return"].to_numpy() <= cells[cells["arm"] == "robust"]["return"].to_numpy()).all()
        assert set(worst["attacker"]) <= {"spoil", "idle", "random", ATTACKER}

        files = {f"{stem}.{kind}" for stem in ("ablation", "ablation-cells") for kind in ("csv", "parquet")}
        assert {p.name for p in out.iterdir()} == files | {"ablation.png", "ablation.svg", "summary.json", "study"}
        summary = json.loads((out / "summary.json").read_text())
        assert summary["command"].startswith("python -m mir2bench.analyze ablation --env mir2bench/Tally3-adv1-v0 ")
        assert summary["versions"]["mir2bench"] == mir2bench.__version__
        assert [r["value"] for r in summary["results"]] == table["value"].tolist()
        assert re.search(r"value +clean +robust", text)
        assert f"{summary['results'][1]['mean']:.2f} [" in text
        assert f"{out}: ablation-cells.csv, " in text

    def test_resumed_analyses_end_with_the_same_numbers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, out = tmp_path / "whole", tmp_path / "resumed"
        options = (*ABLATION, "--values", "0", "1", "--seeds", 1)
        assert call(*options, "--out", whole) == 0
        monkeypatch.setattr(Level, "broken", {1.0})
        assert call(*options, "--out", out) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "the analysis is incomplete: 1 of" in error
        assert "the stub was told to fail" in error
        half = pd.read_parquet(out / "ablation.parquet")
        assert half["value"].tolist() == [0.0, 0.0]  # the other gain is not lost with it
        monkeypatch.setattr(Level, "broken", set())
        assert call(*options, "--out", out) == 2
        assert "not empty" in capsys.readouterr().err
        assert call(*options[:-1], 2, "--out", out, "--resume") == 2
        assert "holds another study" in capsys.readouterr().err
        assert call(*options, "--out", out, "--resume") == 0
        for name in ("ablation", "ablation-cells"):
            pd.testing.assert_frame_equal(*(pd.read_parquet(f / f"{name}.parquet") for f in (whole, out)))

    def test_the_papers_values_are_the_default(self) -> None:
        world = mir2bench.spec("Rendezvous5-adv1-v0")
        found = [c.config["lam"] for c in ablation.sweep("mir2", world, "lam", (), ("noise=0.3",), range(2))]
        assert found == [0, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1]
        contender = ablation.sweep(
            "mir2", mir2bench.spec("Rendezvous5-adv1-v0"), "worlds", ("8",), ("noise=0.3",), range(2)
        )[0]
        assert (contender.config["worlds"], contender.config["noise"]) == (8, 0.3)
        assert (contender.name, contender.algorithm, contender.seeds) == ("worlds=8", "mir2", (0, 1))


# --- adversaries ---


class TestAdversaries:
    def test_numbers_by_hand(self, tmp_path: Path) -> None:
        out = tmp_path / "adversaries"
        options = ("--algo", "scripted:half", LEVEL, "--protocol", "stub-v1", "--counts", 2, 1, "--set", "gain=0")
        assert call("adversaries", *SMALL, *options, "--out", out) == 0
        table = pd.read_parquet(out / "adversaries.parquet").set_index(["defender", "arm", "adversaries"])["mean"]
        steps = lengths(out)
        assert table["scripted:half", "none", 0] == pytest.approx(0.5 * steps)
        for count in (1, 2):
            # k of three agents play -1, or 0, and the others 1/2.
            assert table["scripted:half", "spoil", count] == pytest.approx(steps * ((3 - count) * 0.5 - count) / 3)
            assert table["scripted:half", "idle", count] == pytest.approx(steps * (3 - count) * 0.5 / 3)
            assert table[LEVEL, "spoil", count] == pytest.approx(-steps * count / 3)
        assert sorted(set(table.index.get_level_values("adversaries"))) == [0, 1, 2]
        cells = pd.read_parquet(out / "adversaries-cells.parquet")
        assert (cells["phi"].map(lambda phi: phi.count("1")) == cells["adversaries"]).all()
        # Three partitions for one adversary and for two; without adversaries one row per seed.
        sizes = cells[cells["arm"].isin(("none", "spoil"))].groupby(["defender", "adversaries"]).size()
        assert sizes["scripted:half"].tolist() == [1, 3, 3]
        assert sizes[LEVEL].tolist() == [2, 6, 6]

    def test_teams_are_trained_once_and_on_the_variant_that_was_named(self) -> None:
        contenders = [Contender("a", "trained", LEVEL, {"gain": 0.0}, (0, 1))]
        variants = tuple(adversaries.with_counts(tally(0, 4), (1, 2)))
        study = adversaries.SharedTraining(variants, tuple(contenders), PROTOCOL, BUDGET, home=tally(0, 4))
        jobs = study.jobs()
        trainings = {job.key: job for job in jobs if job.kind == "train"}
        assert [job.params["seed"] for job in trainings.values()] == [0, 1]
        assert {job.variant.id for job in trainings.values()} == {"mir2bench/Tally4-adv0-v0"}
        assert len({job.label for job in jobs}) == len(jobs) == len({job.key for job in jobs})
        done: set[str] = set()
        for job in jobs:
            assert set(job.needs.values()) <= done  # each stands behind what it needs
            done.add(job.key)
            if job.kind != "train":
                assert trainings[job.needs["victim"]].defender_seed == job.defender_seed
                assert job.variant in variants
        played = [job for job in jobs if job.kind == "rollout" and job.params["attacker"] == ATTACKER]
        attacks = {job.key: job for job in jobs if job.kind == "attack"}
        assert len(played) == len(attacks) == 2 * (4 + 5)
        assert all(attacks[job.needs["adversary"]].params["phi"] == job.params["phi"] for job in played)
        assert study.to_dict()["home"]["id"] == "mir2bench/Tally4-adv0-v0"

    def test_counts_that_no_variant_has_are_made_and_the_others_taken(self) -> None:
        five = tally(1, 5)
        mir2bench.register(five)
        made = adversaries.with_counts(five, (4, 1))
        assert made[0] is five
        assert made[1] == dataclasses.replace(five, id="mir2bench/Tally5-adv4-v0", n_adversaries=4)
        assert made[1].id not in mir2bench.list_variants()


# --- overfit ---


class TestOverfit:
    def test_the_training_adversary_plays_and_the_gap_is_paired(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        quick = dataclasses.replace(overfit.PROTOCOL, trained=(ATTACKER,))
        monkeypatch.setattr(overfit, "PROTOCOL", quick)
        monkeypatch.setattr(overfit, "FRESH", ATTACKER)
        monkeypatch.setattr(overfit, "ARMS", {"none": "a", "training": "b", "greedy": "c", ATTACKER: "d"})
        out = tmp_path / "overfit"
        assert call("overfit", *SMALL, "--algo", LEVEL, PREPARED, "--set", "gain=1", "--seeds", 1, "--out", out) == 0
        table = pd.read_parquet(out / "overfit.parquet").set_index(["defender", "arm"])["mean"]
        steps = lengths(out)
        assert table[PREPARED, "none"] == pytest.approx(steps * np.tanh(1))
        assert table[PREPARED, "training"] == pytest.approx(steps * (2 * np.tanh(1) + np.tanh(0.5)) / 3)
        assert (LEVEL, "training") not in table  # it ships none
        assert "greedy" not in table.index.get_level_values("arm")  # nobody ships a critic
        gaps = pd.read_parquet(out / "overfit-gaps.parquet")
        assert gaps[["defender", "adversary"]].to_numpy().tolist() == [[PREPARED, "training"]]
        assert gaps["mean"][0] == pytest.approx(table[PREPARED, "training"] - table[PREPARED, ATTACKER])
        assert "training" in capsys.readouterr().out

    def test_gaps_by_hand(self) -> None:
        # Two seeds, two partitions: the known adversary leaves 5, 6 and 7, 8; the fresh one 1, 1 and 1, -1.
        known, fresh = np.array([[5.0, 6.0], [7.0, 8.0]]), np.array([[1.0, 1.0], [1.0, -1.0]])
        (row,) = overfit.gaps([outcome({"greedy": known, "learned": fresh})]).to_dict("records")
        assert (row["defender"], row["adversary"], row["over"]) == ("team", "greedy", "seeds")
        assert row["mean"] == pytest.approx((4 + 5 + 6 + 9) / 4)
        assert 4.5 <= row["low"] <= row["mean"] <= row["high"] <= 7.5

    def test_the_attacker_needs_a_training_adversary(self) -> None:
        attacker = make_attacker("mir2bench.analysis.overfit:TrainingAdversary", THREE)
        with pytest.raises(NotApplicableError, match="ships no adversary"):
            attacker.attack(THREE, level(THREE, 3, 1.0), Partition((1, 0, 0)), seed=0, budget=1)

    def test_bundles_without_any_adversary_are_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bundle = tmp_path / "bundle"
        save_policy(level(THREE, 3, 1.0), bundle, variant=THREE, algorithm="maddpg", config={}, seed=0)
        assert call("overfit", *SMALL, "--policy", bundle, "--out", tmp_path / "out") == 2
        assert "maddpg ships neither a critic nor an adversary" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def outcome(arms: dict[str, np.ndarray], phis: tuple[str, ...] = ("10", "01"), clean: float = 10.0) -> Outcome:
    """What a team earned: (S, P) returns of each attacker, of one episode each."""
    return tabulate(episodes({name: matrix[:, None] for name, matrix in arms.items()}, phis, clean), "v", ["team"])[0]


def episodes(arms: dict[str, np.ndarray], phis: tuple[str, ...], clean: float = 10.0) -> pd.DataFrame:
    """The scores of a team: (S, E, P) returns of each attacker."""
    rows = []
    for name, returns in arms.items():
        for (seed, episode, place), value in np.ndenumerate(returns):
            rows.append((seed, name, 1000 + seed if name == "learned" else None, phis[place], episode, value))
            if place == 0 and name == next(iter(arms)):
                rows.append((seed, "none", None, "0" * len(phis[0]), episode, clean))
    columns = ("defender_seed", "attacker", "attacker_seed", "phi", "episode", "return")
    table = pd.DataFrame(rows, columns=pd.Index(columns)).assign(variant="v", defender="team", length=1, won=pd.NA)
    return table[list(COLUMNS)].astype(COLUMNS)


# --- per-agent ---


class TestPerAgent:
    def test_one_adversary_by_hand(self) -> None:
        matrix = np.array([[1.0, 2.0], [3.0, 8.0]])
        table = per_agent.by_agent([outcome({"learned": matrix, "idle": matrix + 1})]).set_index(["arm", "agent"])
        assert table.loc[("learned", 0), "mean"] == 2
        assert table.loc[("learned", 1), "mean"] == 5
        assert table.loc[("worst", 1), "mean"] == 5
        assert table.loc[("idle", 1), "mean"] == 6
        assert (table["seeds"] == 2).all()
        assert 2 <= table.loc[("learned", 1), "low"] <= 5 <= table.loc[("learned", 1), "high"] <= 8

    def test_with_several_adversaries_an_agent_has_the_mean_of_its_partitions(self) -> None:
        teams = [outcome({"learned": np.array([[1.0, 2.0, 6.0]])}, ("1100", "1010", "0110"))]
        table = per_agent.by_agent(teams).query("arm == 'learned'").set_index("agent")
        assert table["mean"].to_dict() == {0: 1.5, 1: 3.5, 2: 4.0}  # agent 3 was never adversarial
        assert table["partitions"].to_dict() == {0: 2, 1: 2, 2: 2}
        assert table["low"].isna().all()  # one seed

    def test_analysis_of_variance_by_hand(self) -> None:
        sign = np.array([-1.0, 1.0])
        seed, episode, agent = sign[:, None, None], sign[None, :, None], sign[None, None, :]
        returns = agent + 0.5 * seed * agent + 0.25 * episode * agent + 0.125 * seed * episode * agent + 7
        found = per_agent.variance(returns)
        # Mean squares with one degree of freedom each: 8, 2, 0.5 and 0.125.
        assert found["f"] == pytest.approx((8 + 0.125) / (2 + 0.5))
        assert found["sd_agents"] == pytest.approx(((8 - 2 - 0.5 + 0.125) / 4) ** 0.5)
        assert found["sd_agents_by_team"] == pytest.approx(((2 - 0.125) / 2) ** 0.5)
        assert found["sd_agents_by_episode"] == pytest.approx(((0.5 - 0.125) / 2) ** 0.5)
        assert found["sd_teams"] == 0
        # Degrees of freedom: 8.125^2 / (64 + 1/64) and 2.5^2 / (4 + 1/4).
        from scipy import stats

        assert found["p"] == pytest.approx(stats.f.sf(3.25, 8.125**2 / 64.015625, 6.25 / 4.25))

    def test_where_agents_start_does_not_pass_for_a_difference_between_them(self) -> None:
        rng = np.random.default_rng(0)
        starts = rng.normal(size=(1, 12, 6))  # the same for all seeds, since they play the same episodes
        noise = rng.normal(scale=0.01, size=(5, 12, 6))
        found = per_agent.variance(starts + noise)
        assert found["p"] > 0.05
        assert found["sd_agents_by_episode"] == pytest.approx(starts.std(), rel=0.2)
        real = per_agent.variance(starts + noise + np.arange(6.0))
        assert real["p"] < 1e-6
        assert real["sd_agents"] == pytest.approx(np.arange(6).std(ddof=1), rel=0.2)

    def test_nothing_can_be_told_of_one_seed(self) -> None:
        assert np.isnan(list(per_agent.variance(np.zeros((1, 4, 3))).values())).all()

    def test_differences_look_at_the_episodes_of_the_strongest_attacker(self) -> None:
        rng = np.random.default_rng(1)
        phis = ("100", "010", "001")
        learned, idle = rng.normal(size=(2, 4, 5, 3))
        scores = episodes({"learned": learned, "idle": idle}, phis)
        team = tabulate(scores, "v", ["team"])[0]
        table = per_agent.differences([team], scores).set_index("arm")
        assert table.loc["learned", "f"] == pytest.approx(per_agent.variance(learned)["f"])
        assert table.loc["robust", "f"] == pytest.approx(per_agent.variance(learned)["f"])
        lower = np.where((learned.mean(axis=1) < idle.mean(axis=1))[:, None], learned, idle)
        assert table.loc["worst", "f"] == pytest.approx(per_agent.variance(lower)["f"])
        assert table.loc["worst", "range"] == pytest.approx(np.ptp(lower.mean(axis=1), axis=1).mean())

    def test_a_finished_study_and_one_that_is_run_give_the_same(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ran, read = tmp_path / "ran", tmp_path / "read"
        options = ("--algo", "scripted:half", "--protocol", "stub-v1")
        assert call("per-agent", *SMALL, *options, "--out", ran) == 0
        assert call("per-agent", "--study", ran, "--out", read) == 0
        for name in ("per-agent", "per-agent-cells", "per-agent-differences"):
            first, second = (pd.read_parquet(folder / f"{name}.parquet") for folder in (ran, read))
            pd.testing.assert_frame_equal(first, second)
        table = pd.read_parquet(read / "per-agent.parquet").set_index(["defender", "arm", "agent"])["mean"]
        for agent in range(3):  # (1/2 + 1/2 - 1) / 3
            assert table["scripted:half", "spoil", agent] == pytest.approx(0.0)
            assert table["scripted:half", "idle", agent] == pytest.approx(lengths(ran) / 3)
        assert (read / "per-agent.png").stat().st_size > 10_000
        assert not (read / "study").exists()

        for arguments, message in (
            (("--study", ran, "--algo", "mir2"), "--algo has no meaning with --study"),
            (("--study", ran, "--env", THREE_TWO.id), f"has {THREE.id} with adversaries. Choose one with --env"),
            (("--study", tmp_path), "holds no finished study"),
        ):
            capsys.readouterr()
            assert call("per-agent", *arguments, "--out", tmp_path / "no") == 2
            assert message in capsys.readouterr().err
            assert not (tmp_path / "no").exists()

    def test_damaged_studies_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "summary.json").write_text('{"study": {}}')
        (tmp_path / "scores.parquet").write_text("nonsense")
        assert call("per-agent", "--study", tmp_path, "--out", tmp_path / "no") == 2
        assert f"{tmp_path} holds no finished study (ArrowInvalid" in capsys.readouterr().err

    def test_missing_cells_stay_missing(self, tmp_path: Path) -> None:
        scores = episodes({"learned": np.arange(8.0).reshape(2, 2, 2)}, ("10", "01"))
        gap = (scores["defender_seed"] == 1) & (scores["phi"] == "01")
        scores[~gap].to_parquet(tmp_path / "scores.parquet")
        missing = [{"variant": "v", "defender": "team", "defender_seed": 1, "attacker": "learned", "phi": "01"}]
        study = {"variants": [], "contenders": [{"name": "team", "kind": "trained"}], "protocol": {}}
        (tmp_path / "summary.json").write_text(json.dumps({"study": study, "missing": missing}))
        finished = studies.open_study(tmp_path)
        (team,) = finished.outcomes("v")
        assert team.planned["learned"] == 4
        np.testing.assert_array_equal(team.matrix("learned"), [[1.0, 2.0]])
        assert studies.cells([team])["return"].notna().all()


# --- timing ---


class TestTiming:
    def test_everybody_takes_turns_after_a_round_that_does_not_count(self) -> None:
        calls: list[str] = []

        def work(name: str) -> Any:
            return lambda: calls.append(name) or len(calls)

        assert timing.take_turns({"a": work("a"), "b": work("b")}, 2) == {"a": [3, 5], "b": [4, 6]}
        assert calls == ["a", "b"] * 3

    def test_an_epoch_is_one_episode_and_its_learner_calls(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mir2bench.register(game(Match))
        rig = timing.Rig("maddpg", dataclasses.replace(game(Match), horizon=5), {"worlds": 1}, episodes=3)
        sizes: list[int] = []
        collected: list[int] = []
        step = rig._collector.step
        monkeypatch.setattr(rig.learner, "update", lambda batch: sizes.append(len(batch.reward)))
        monkeypatch.setattr(rig._collector, "step", lambda: collected.append(step()) or collected[-1])
        options = timing.Options(epochs=1, updates=4, batch_episodes=3)
        data = timing.measure({"maddpg": rig}, options)
        # Two rounds, the first of which warms up. A match ends after its first step.
        assert collected == [1, 1]
        assert sizes == [15, 15, 15, 15, *[rig.config.batch_size] * 10] * 2
        assert list(data.columns) == ["round", "defender", "collect_s", "learn_s", "epoch_s", "update_s"]
        assert (data["epoch_s"] == data["collect_s"] + data["learn_s"]).all()

    def test_ratios_by_hand(self) -> None:
        seconds = np.array([1.0, 2.0, 4.0])
        parts = {"collect_s": seconds / 2, "learn_s": seconds / 2, "epoch_s": seconds, "update_s": seconds / 8}
        both = [pd.DataFrame({"round": range(3), "defender": name, **parts}) for name in ("maddpg", "slow")]
        both[1][["epoch_s", "update_s"]] *= [3.0, 2.0]
        table = timing.summarize(pd.concat(both), "maddpg").set_index("defender")
        assert table.loc["maddpg", "epoch_median_s"] == 2
        assert table.loc["maddpg", "epoch_mean_s"] == pytest.approx(7 / 3)
        assert table.loc["maddpg", "epoch_std_s"] == pytest.approx(np.std(seconds, ddof=1))
        assert table.loc["slow", "update_median_s"] == 0.5
        # Rounds are resampled together, so a defender that is always three times slower is so in each resample.
        for what, ratio in (("epoch", 3.0), ("update", 2.0)):
            found = table.loc["slow", [f"{what}_ratio", f"{what}_ratio_low", f"{what}_ratio_high"]]
            assert found.tolist() == [ratio] * 3

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        mir2bench.register(game(Match))
        out = tmp_path / "timing"
        assert call("timing", "--env", game(Match).id, "--algo", "mir2", "maddpg", "--epochs", 2, "--out", out) == 0
        data = pd.read_csv(out / "timing-epochs.csv")
        assert data[["round", "defender"]].to_numpy().tolist() == [
            [0, "mir2"],
            [0, "maddpg"],
            [1, "mir2"],
            [1, "maddpg"],
        ]
        summary = json.loads((out / "summary.json").read_text())
        assert summary["reference"] == "maddpg"
        assert [row["defender"] for row in summary["results"]] == ["mir2", "maddpg"]
        assert summary["results"][1]["epoch_ratio"] == 1
        assert summary["hardware"]["cores"] >= 1
        assert (out / "timing.svg").exists()
        assert "to maddpg" in capsys.readouterr().out
