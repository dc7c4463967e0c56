"""Protocol, roll-outs, jobs and contenders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_stubs import (
    ATTACKER,
    BUDGET,
    DEFENDER,
    PROTOCOL,
    SECOND_ATTACKER,
    SUITE,
    WHITE_BOX,
    ConstantPolicy,
    StubAttacker,
    StubDefender,
    tally,
)

import mir2bench
from mir2bench.errors import ConfigError, PolicyError, UnknownNameError
from mir2bench.evaluation import jobs as jobs_module
from mir2bench.evaluation import protocol
from mir2bench.evaluation.contenders import Contender, hash_folder, resolve_configs, resolve_contenders
from mir2bench.evaluation.figures import mean_curve
from mir2bench.evaluation.jobs import Job, plan
from mir2bench.evaluation.protocol import (
    BUDGETS,
    Budget,
    Protocol,
    attack_seed,
    evaluation_seeds,
    get_budget,
    get_protocol,
    is_transferred,
    transferred,
    validation_seeds,
)
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import RandomPolicy, save_policy

PAPER = get_protocol("paper-v1")
CLEAN, SECOND = Partition((0, 0)), Partition((0, 1))


class TestProtocol:
    def test_budgets(self) -> None:
        assert list(BUDGETS) == ["smoke", "quick", "standard", "paper"]
        assert [b.defender_seeds for b in BUDGETS.values()] == [1, 1, 5, 5]
        assert [b.board for b in BUDGETS.values()] == [False, False, True, True]
        assert {b.episodes for b in BUDGETS.values() if b.name != "smoke"} == {32}
        assert {b.partitions for b in BUDGETS.values() if b.name != "smoke"} == {None}

    def test_one_adversary_means_every_agent_in_turn(self) -> None:
        spec = mir2bench.spec("Rendezvous10-adv1-v0")
        phis = PAPER.partitions(spec, get_budget("quick"))
        assert [p.adversaries for p in phis] == [(i,) for i in range(10)]
        assert len(PAPER.partitions(spec, get_budget("smoke"))) == 2

    def test_more_adversaries_are_sampled_and_always_the_same(self) -> None:
        spec = mir2bench.spec("Rendezvous10-adv2-v0")
        phis = PAPER.partitions(spec, get_budget("paper"))
        assert [p.label for p in phis] == ["1+3", "1+4", "2+3", "4+6", "8+9"]

    def test_no_more_partitions_than_there_are(self) -> None:
        phis = PAPER.partitions(tally(2, n_agents=3), get_budget("quick"))
        assert [p.phi for p in phis] == [(1, 1, 0), (1, 0, 1), (0, 1, 1)]

    def test_plain_dec_pomdp_has_no_partitions(self) -> None:
        assert PAPER.partitions(tally(0), get_budget("quick")) == []

    def test_sanity_attackers_come_from_the_family(self) -> None:
        assert PAPER.untrained(tally()) == ("idle", "random", "spoil")

    def test_seeds_never_meet(self) -> None:
        training = set(range(1000))
        attacks = {attack_seed(s, r) for s in training for r in range(10)}
        evaluation, validation = set(evaluation_seeds(5000)), set(validation_seeds(5000))
        assert len(attacks) == 10_000
        assert not (training | attacks) & (evaluation | validation)
        assert not evaluation & validation
        assert min(evaluation | validation) >= 2**32
        assert evaluation_seeds(2) == evaluation_seeds(3)[:2]

    def test_unknown_names(self) -> None:
        with pytest.raises(UnknownNameError, match=r"No protocol `suite-v2`. Did you mean `suite-v1`"):
            get_protocol("suite-v2")
        with pytest.raises(UnknownNameError, match="No budget `quik`. Did you mean `quick`"):
            get_budget("quik")

    def test_a_headline_needs_its_attackers(self) -> None:
        assert (PAPER.headline, get_protocol("suite-v1").headline) == ("robust", "worst")
        with pytest.raises(ConfigError, match="the headline must be `worst`, or `robust` if attackers are trained"):
            Protocol("mine", trained=(), sampled_partitions=1)
        with pytest.raises(ConfigError, match="but it is `idle`"):
            dataclasses.replace(PAPER, headline="idle")

    def test_names_of_transferred_attackers(self) -> None:
        assert transferred("maddpg", "learned") == "transfer:maddpg/learned"
        assert is_transferred("transfer:maddpg/learned")
        assert not is_transferred("learned")

    def test_budgets_must_be_positive(self) -> None:
        with pytest.raises(ConfigError, match="defender_seeds must be 1 or more, but it is 0"):
            dataclasses.replace(get_budget("quick"), defender_seeds=0)
        with pytest.raises(ConfigError, match="1000 seeds are too many"):
            dataclasses.replace(get_budget("quick"), defender_seeds=1000)


def test_the_suites_page_has_the_budgets_right() -> None:
    page = (Path(__file__).parents[1] / "docs" / "suite.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")][: len(BUDGETS)]
    for row, budget in zip(rows, BUDGETS.values(), strict=True):
        assert row == [
            f"`{budget.name}`",
            str(budget.defender_seeds),
            f"{budget.train_steps:,}",
            f"{budget.attack_steps:,}",
            str(budget.episodes),
            "all" if budget.partitions is None else f"the first {budget.partitions}",
            "yes" if budget.board else "no",
        ]
    for number in (evaluation_seeds(32)[0], evaluation_seeds(32)[-1], protocol._PARTITION_SEED):
        assert f"{number:,}" in page


class TestRollout:
    """In the tally world a step pays the mean action, and episodes last 3 to 5 steps."""

    seeds = evaluation_seeds(30)

    def test_returns_lengths_and_victories_by_hand(self) -> None:
        episodes = rollout(tally(), ConstantPolicy(0.5), SECOND, ConstantPolicy(-1.0), self.seeds)
        lengths = [int(np.random.default_rng(s).integers(3, 6)) for s in self.seeds]
        assert sorted(set(lengths)) == [3, 4, 5]
        assert episodes.lengths.tolist() == lengths
        np.testing.assert_allclose(episodes.returns, [-0.25 * n for n in lengths])
        assert episodes.won is not None
        assert episodes.won.tolist() == [n == 5 for n in lengths]

    def test_clean_arm_plays_the_same_starts(self) -> None:
        episodes = rollout(tally(), ConstantPolicy(0.5), CLEAN, None, self.seeds)
        attacked = rollout(tally(), ConstantPolicy(0.5), SECOND, ConstantPolicy(0.5), self.seeds)
        assert episodes.lengths.tolist() == attacked.lengths.tolist()
        assert episodes.returns.tolist() == attacked.returns.tolist() == (0.5 * episodes.lengths).tolist()

    def test_families_without_victories(self) -> None:
        spec = mir2bench.spec("Rendezvous5-adv1-v0")
        episodes = rollout(spec, RandomPolicy(spec.layout), Partition.of(5), None, self.seeds[:2])
        assert episodes.won is None
        assert episodes.lengths.tolist() == [200, 200]
        assert (episodes.returns < -10).all()

    def test_masked_worlds_with_random_ends(self, toy: list[str]) -> None:
        spec = mir2bench.spec(toy[1])
        phi = Partition((0, 1, 0))
        policy = RandomPolicy(spec.layout)
        first = rollout(spec, policy, phi, policy, self.seeds)
        again = rollout(spec, policy, phi, policy, self.seeds)
        assert first.returns.tolist() == again.returns.tolist()
        assert first.lengths.min() < 20  # some ended by themselves, and nobody stepped them after that

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.nan, r"my team returned \[nan\] for agent number 0 of its 2 in episode 0: actions must be finite"),
            (
                1.5,
                r"my team returned \[1.5\] for agent number 0 of its 2 in episode 0, but actions here run from -1 to 1",
            ),
        ],
    )
    def test_bad_actions_of_the_team(self, value: float, message: str) -> None:
        with pytest.raises(PolicyError, match=message):
            rollout(
                tally(), ConstantPolicy(value), SECOND, ConstantPolicy(0), [1], team_name="my team",
                adversary_name="the traitor",
            )  # fmt: skip

    def test_bad_actions_of_the_adversary(self) -> None:
        class Flat(ConstantPolicy):
            def act(self, obs: np.ndarray, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
                actions, carry = super().act(obs, *args, **kwargs)
                return actions[:, 0], carry

        with pytest.raises(PolicyError, match=r"the traitor returned actions of shape \(1, 1\), but \(1, 1, 1\)"):
            rollout(tally(), ConstantPolicy(0), SECOND, Flat(0), [1], adversary_name="the traitor")

    def test_adversary_and_phi_belong_together(self) -> None:
        with pytest.raises(ValueError, match="phi names 1 adversaries, but the adversary is None"):
            rollout(tally(), ConstantPolicy(0), SECOND, None, [1])


def _plan(budget: Budget = BUDGET, adversaries: int = 1, **changes: Any) -> list[Job]:
    contender = Contender("stub", "trained", DEFENDER, {"gain": 1.0, "trouble": ""}, (0, 1))
    return plan(PROTOCOL, budget, [tally(adversaries)], [dataclasses.replace(contender, **changes)])


class TestPlan:
    def test_counts(self) -> None:
        kinds = [job.kind for job in _plan()]
        # Per seed: 1 training; 2 partitions x 1 attack; 1 clean + 2 x (trained, idle, random, spoil) roll-outs.
        assert kinds == ["train"] * 2 + ["attack"] * 4 + ["rollout"] * 18

    def test_restarts(self) -> None:
        jobs = _plan(dataclasses.replace(BUDGET, attack_restarts=3))
        attacks = [job for job in jobs if job.kind == "attack"]
        assert len(attacks) == 12
        assert {job.params["seed"] for job in attacks if job.defender_seed == 1} == {1001, 2001, 3001}

    def test_plain_variants_are_played_clean_only(self) -> None:
        jobs = _plan(adversaries=0)
        assert [job.kind for job in jobs] == ["train", "train", "rollout", "rollout"]
        assert {job.params["attacker"] for job in jobs[2:]} == {"none"}

    def test_needs_come_first_and_keys_are_unique(self) -> None:
        jobs = _plan()
        done: set[str] = set()
        for job in jobs:
            assert set(job.needs.values()) <= done
            done.add(job.key)
        assert len(done) == len(jobs) == len({job.label for job in jobs})

    @pytest.mark.parametrize(
        "other",
        [
            {"budget": dataclasses.replace(BUDGET, train_steps=11)},
            {"config": {"gain": 2.0, "trouble": ""}},
            {"seeds": (2, 3)},
            {"algorithm": ATTACKER},
        ],
    )
    def test_whatever_changes_a_training_changes_all_keys(self, other: dict[str, Any]) -> None:
        assert not {job.key for job in _plan()} & {job.key for job in _plan(**other)}

    def test_version_changes_all_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = {job.key for job in _plan()}
        monkeypatch.setattr(jobs_module.mir2bench, "__version__", "99.0")
        assert not before & {job.key for job in _plan()}

    def test_attack_budget_leaves_trainings_alone(self) -> None:
        before, after = _plan(), _plan(dataclasses.replace(BUDGET, attack_steps=11))
        same = {job.key for job in before} & {job.key for job in after}
        # Trainings, clean arms and untrained attackers: 2 + 2 x (1 + 2 x 3).
        assert len(same) == 16
        assert not any(job.kind == "attack" for job in after if job.key in same)

    def test_name_does_not_change_keys(self) -> None:
        assert {job.key for job in _plan()} == {job.key for job in _plan(name="other")}


class TestPaperPlan:
    """The plan of paper-v1 as it has been since the first release: its results must stay comparable."""

    def test_every_job_of_a_study(self) -> None:
        spec = mir2bench.spec("Rendezvous10-adv1-v0")
        budget = dataclasses.replace(get_budget("standard"), defender_seeds=2)
        contenders = resolve_contenders(["maddpg", "scripted:centroid"], [], [], range(2), [spec])
        phis = ["0" * i + "1" + "0" * (9 - i) for i in range(10)]
        trainings, attacks, plays = [], [], []
        for name, seeds in (("maddpg", (0, 1)), ("scripted:centroid", (0,))):
            for seed in seeds:
                if name == "maddpg":
                    trainings.append((name, seed, "", "", seed, 300_000))
                plays.append((name, seed, "none", "0" * 10, None, 6_400))
                for phi in phis:
                    attacks.append((name, seed, "learned", phi, 1000 + seed, 400_000))
                    plays.append((name, seed, "learned", phi, 1000 + seed, 6_400))
                    plays += [(name, seed, a, phi, None, 6_400) for a in ("idle", "random", "flee", "circle", "dodge")]
        jobs = plan(PAPER, budget, [spec], contenders)
        found = [
            (
                j.kind,
                (
                    j.defender,
                    j.defender_seed,
                    j.params.get("attacker", ""),
                    j.params.get("phi", ""),
                    j.params["attacker_seed" if j.kind == "rollout" else "seed"],
                    j.steps,
                ),
            )
            for j in jobs
        ]
        for kind, expected in (("train", trainings), ("attack", attacks), ("rollout", plays)):
            of_kind = [facts for k, facts in found if k == kind]
            assert sorted(of_kind, key=str) == sorted(expected, key=str)
            assert [f[:2] for f in of_kind] == [f[:2] for f in expected]  # the same order of teams
        assert {j.params["first_seed"] for j in jobs if j.kind == "rollout"} == {2_000_000_000_000}


class TestSuitePlan:
    """Two trained defenders, one with two seeds and one with three, and a scripted team."""

    @staticmethod
    def _jobs(**changes: Any) -> list[Job]:
        config = {"gain": 1.0, "trouble": ""}
        contenders = [
            Contender("a", "trained", DEFENDER, config, (0, 1)),
            Contender("b", "trained", DEFENDER, {**config, "gain": 2.0}, (0, 1, 2)),
            Contender("c", "scripted", "half"),
        ]
        return plan(SUITE, dataclasses.replace(BUDGET, **changes), [tally()], contenders)

    def test_who_attacks_a_cell(self) -> None:
        cell = [j for j in self._jobs() if j.kind == "rollout" and (j.defender, j.defender_seed) == ("a", 1)]
        names = [j.params["attacker"] for j in cell if j.params["phi"] == "10"]
        own = [ATTACKER, SECOND_ATTACKER, "idle", "random", "spoil", WHITE_BOX]
        foreign = [f"transfer:{other}/{attacker}" for other in "bc" for attacker in (ATTACKER, SECOND_ATTACKER)]
        assert names == own + foreign
        # Per seed: 2 partitions x 2 attacks; 1 clean + 2 x 10 roll-outs.
        kinds = [j.kind for j in self._jobs()]
        assert [kinds.count(k) for k in ("train", "attack", "rollout")] == [5, 24, 126]

    def test_transferred_attackers_come_from_the_same_seed_index_and_partition(self) -> None:
        jobs = self._jobs(attack_restarts=2)
        by_key = {j.key: j for j in jobs}
        seen = set()
        for job in jobs:
            if not is_transferred(job.params.get("attacker", "")):
                continue
            source = by_key[job.needs["adversary"]]
            assert source.kind == "attack"
            assert source.params["phi"] == job.params["phi"]
            assert source.params["seed"] == job.params["attacker_seed"]
            assert job.params["attacker"] == f"transfer:{source.defender}/{source.params['attacker']}"
            assert source.defender != job.defender
            seen.add((job.defender, job.defender_seed, source.defender, source.defender_seed, source.restart))
        pairs = {s[:4] for s in seen}
        # Where the other has fewer seeds, it starts again from its first.
        assert pairs == {
            ("a", 0, "b", 0), ("a", 1, "b", 1), ("a", 0, "c", 0), ("a", 1, "c", 0),
            ("b", 0, "a", 0), ("b", 1, "a", 1), ("b", 2, "a", 0), ("b", 0, "c", 0), ("b", 1, "c", 0), ("b", 2, "c", 0),
            ("c", 0, "a", 0), ("c", 0, "b", 0),
        }  # fmt: skip
        assert len(seen) == 2 * len(pairs)

    def test_needs_come_first_and_keys_are_unique(self) -> None:
        jobs = self._jobs(attack_restarts=2)
        done: set[str] = set()
        for job in jobs:
            assert set(job.needs.values()) <= done
            done.add(job.key)
        assert len(done) == len(jobs) == len({job.label for job in jobs})

    def test_a_single_contender_has_no_transfer(self) -> None:
        jobs = plan(SUITE, BUDGET, [tally()], [Contender("c", "scripted", "half")])
        assert not any(is_transferred(j.params["attacker"]) for j in jobs)

    def test_two_adversaries(self) -> None:
        jobs = plan(SUITE, BUDGET, [tally(2, n_agents=4)], [Contender(n, "scripted", "half") for n in "cd"])
        phis = {j.params["phi"] for j in jobs if is_transferred(j.params["attacker"])}
        assert len(phis) == 5
        assert {phi.count("1") for phi in phis} == {2}

    def test_suite_v1_adds_to_paper_v1(self) -> None:
        """The same cells and seeds, so that whatever both play has the same result."""
        spec = mir2bench.spec("Rendezvous5-adv1-v0")
        contenders = resolve_contenders(["maddpg", "mir2"], [], [], range(2), [spec])
        paper, suite = (
            plan(get_protocol(p), get_budget("smoke"), [spec], contenders) for p in ("paper-v1", "suite-v1")
        )
        assert {j.key for j in paper} < {j.key for j in suite}
        assert {j.params["attacker"] for j in suite if j.kind == "attack"} == {"learned", "sb3-ppo"}


@pytest.fixture
def tally_registered(fresh_registry: None) -> str:
    return mir2bench.register(tally())[0]


def _bundle(folder: Path, seed: int, algorithm: str = DEFENDER, **config: Any) -> Path:
    defender = StubDefender(StubDefender.Config(**config))
    policy = defender.train(tally(), seed=seed, budget=1)
    values = dataclasses.asdict(defender.config)
    return save_policy(policy, folder, variant=tally(), algorithm=algorithm, config=values, seed=seed)


class TestContenders:
    def test_settings_reach_the_algorithms_that_know_them(self) -> None:
        configs = resolve_configs(["maddpg", "mir2"], ["gamma=0.5", "mir2.lam=0.25"], tally())
        assert configs["maddpg"]["gamma"] == configs["mir2"]["gamma"] == 0.5
        assert configs["mir2"]["lam"] == 0.25
        assert "lam" not in configs["maddpg"]

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("gama=1", "No setting `gama`. Did you mean `gamma`"),
            ("mir3.lam=1", "No algorithm in this command `mir3`. Did you mean `mir2`"),
            ("maddpg.lam=1", "No setting `lam`"),
            ("gamma", "must look like KEY=VALUE, but it is 'gamma'"),
            ("gamma=high", "gamma must be of type float"),
        ],
    )
    def test_bad_settings(self, setting: str, message: str) -> None:
        with pytest.raises((UnknownNameError, ConfigError), match=message):
            resolve_configs(["maddpg", "mir2"], [setting], tally())

    def test_names_that_do_not_exist(self) -> None:
        spec = mir2bench.spec("Rendezvous5-adv1-v0")
        with pytest.raises(UnknownNameError, match="No defender `mir22`. Did you mean `mir2`"):
            resolve_contenders(["mir22"], [], [], [0], [spec])
        with pytest.raises(UnknownNameError, match="No scripted team of Rendezvous `centre`"):
            resolve_contenders(["scripted:centre"], [], [], [0], [spec])
        with pytest.raises(ConfigError, match="`mir2` is named twice"):
            resolve_contenders(["mir2", "mir2"], [], [], [0], [spec])

    def test_bundles_that_differ_in_their_seed_are_one_contender(self, tally_registered: str, tmp_path: Path) -> None:
        folders = [_bundle(tmp_path / "b", 1), _bundle(tmp_path / "a", 0), _bundle(tmp_path / "c", 0, gain=2.0)]
        found = resolve_contenders([], folders, [], [0], [tally()])
        assert [(c.name, c.seeds) for c in found] == [(DEFENDER, (0, 1)), (f"{DEFENDER}-2", (0,))]
        assert found[0].bundles == (str(folders[1]), str(folders[0]))
        assert found[0].hashes == (hash_folder(folders[1]), hash_folder(folders[0]))

    def test_keys_follow_a_bundles_content_and_not_its_place(self, tally_registered: str, tmp_path: Path) -> None:
        def keys(folder: Path) -> set[str]:
            contenders = resolve_contenders([], [folder], [], [0], [tally()])
            return {job.key for job in plan(PROTOCOL, BUDGET, [tally()], contenders)}

        first = keys(_bundle(tmp_path / "first", 0))
        assert first == keys(_bundle(tmp_path / "copy", 0))
        assert not first & keys(_bundle(tmp_path / "other", 0, gain=0.5))

    def test_bundles_that_cannot_be_used(self, tally_registered: str, tmp_path: Path) -> None:
        good, twin = _bundle(tmp_path / "good", 3), _bundle(tmp_path / "twin", 3)
        with pytest.raises(ConfigError, match=r"same configuration and seed 3: .*good, .*twin"):
            resolve_contenders([], [good, twin], [], [0], [tally()])
        with pytest.raises(PolicyError, match="cannot play mir2bench/Rendezvous5"):
            resolve_contenders([], [good], [], [0], [mir2bench.spec("Rendezvous5-adv1-v0")])
        with pytest.raises(PolicyError, match="not a policy bundle"):
            resolve_contenders([], [tmp_path / "nowhere"], [], [0], [tally()])
        adversary = StubAttacker().attack(tally(), ConstantPolicy(0), SECOND, seed=0, budget=1)
        save_policy(adversary, tmp_path / "adversary", variant=tally(), algorithm="x", config={}, seed=0)
        with pytest.raises(PolicyError, match="holds a policy of 1 adversaries, not a team of 2"):
            resolve_contenders([], [tmp_path / "adversary"], [], [0], [tally()])


def test_curves_that_report_at_different_steps_are_averaged_where_they_stand() -> None:
    rows = [(0, "10", 0, 10, 4.0), (0, "10", 0, 30, 2.0), (1, "10", 0, 20, 8.0), (1, "10", 0, 40, 6.0)]
    curves = pd.DataFrame(rows, columns=pd.Index(["seed", "phi", "restart", "steps", "value"]))
    assert mean_curve(curves).to_dict() == {20: 6.0, 30: 5.0, 40: 4.0}
