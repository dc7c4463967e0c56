"""What strangers send: altered files, cheating policies, mutations of everything, and the walls around it all."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_leaderboard import run
from hypothesis import given, settings
from hypothesis import strategies as st

from mir2bench.attackers import fixed_attackers
from mir2bench.content import content_dir
from mir2bench.errors import PolicyError
from mir2bench.evaluation.protocol import evaluation_seeds, get_protocol
from mir2bench.leaderboard.board import all_entries, read_board
from mir2bench.leaderboard.check import check_entry, inspect_entry, read_episodes, try_policy
from mir2bench.leaderboard.entry import EntryError, File, Links, parse_entry, read_entry
from mir2bench.leaderboard.ledger import record
from mir2bench.leaderboard.salt import salted_draw
from mir2bench.leaderboard.sandbox import Limits, TimeoutFailure, run_limited
from mir2bench.leaderboard.site import build
from mir2bench.learning.rollout import rollout
from mir2bench.partition import Partition
from mir2bench.policies import load_policy
from mir2bench.registration import spec

WORLD = "mir2bench/Rendezvous10-adv1-v0"
SOURCE = content_dir("leaderboards") / "Rendezvous10-adv1-v0" / "mir2"
ENTRIES = all_entries()
SMALL = Limits(cpu_s=60, wall_s=120)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """A copy of a real entry."""
    return Path(shutil.copytree(SOURCE, tmp_path / "entry"))


def _edit(folder: Path, change: Callable[[Any], None], name: str = "entry.json") -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


class TestContent:
    @pytest.mark.parametrize("folder", ENTRIES, ids=lambda f: f"{f.parent.name}/{f.name}")
    def test_every_entry_keeps_the_rules(self, folder: Path) -> None:
        found = inspect_entry(folder)
        assert folder == content_dir("leaderboards") / found.folder
        sizes = [sum(file.bytes for file in policy.files) for policy in found.policies]
        assert all(size <= 2**20 for size in sizes)

    def test_the_boards_are_those_that_the_entries_give(self, tmp_path: Path) -> None:
        build(content_dir("leaderboards"), tmp_path / "site")
        for data in (tmp_path / "site").glob("*/board.json"):
            kept = content_dir("leaderboards") / data.parent.name / data.name
            assert kept.read_bytes() == data.read_bytes(), "run python -m mir2bench.leaderboard build --update"

    @pytest.mark.parametrize("folder", ENTRIES, ids=lambda f: f"{f.parent.name}/{f.name}")
    def test_a_cell_of_every_entry_played_again(self, folder: Path) -> None:
        found = read_entry(folder)
        if found.reported is None or not found.policies:
            assert found.method.kind == "scripted"
            return
        table = read_episodes(folder / found.reported.episodes.path)
        seed = found.training.seeds[0]
        told = table[(table["attacker"] == "none") & (table["defender_seed"] == seed)]["return"].to_numpy()
        variant = spec(found.variant)
        policy = load_policy(folder / "policies" / f"seed{seed}")
        played = rollout(variant, policy, Partition.of(variant.n_agents), None, evaluation_seeds(len(told)))
        np.testing.assert_allclose(played.returns, told, rtol=1e-3)
        # And under the strongest attacker that needs no training; every entry has met all of these.
        fixed = fixed_attackers(variant)
        attacked = table[
            (table["defender_seed"] == seed) & table["attacker"].isin(fixed) & (table["attacker"] != "random")
        ]
        cell = attacked.groupby(["attacker", "phi"])["return"].mean().idxmin()
        told = attacked[(attacked["attacker"] == cell[0]) & (attacked["phi"] == cell[1])]["return"].to_numpy()
        phi = Partition(tuple(map(int, cell[1])))
        adversary = fixed[cell[0]].attack(variant, policy, phi, seed=0, budget=0)
        played = rollout(variant, policy, phi, adversary, evaluation_seeds(len(told)))
        np.testing.assert_allclose(played.returns, told, rtol=1e-3)

    def test_sanity_rows_are_permanent(self) -> None:
        """On every board on which something was verified: the keepers add them together with the first verdict."""
        for variant, entries in read_board().items():
            if any(entry.verified is not None for entry in entries):
                assert {"scripted-random", "scripted-idle"} <= {entry.entry for entry in entries}, variant


class TestLedger:
    @pytest.fixture
    def board(self, tmp_path: Path) -> Path:
        """A board with copies of two real rows and their lines of the ledger."""
        for name in ("mir2", "maddpg"):
            shutil.copytree(SOURCE.parent / name, tmp_path / "board" / SOURCE.parent.name / name)
            record(read_entry(SOURCE.parent / name), tmp_path / "board")
        return tmp_path / "board"

    @pytest.mark.parametrize("part", ["verified", "history", "challenges"])
    def test_only_keepers_write_what_counts(self, board: Path, part: str) -> None:
        """A made-up verdict is refused, also if all its hashes agree."""
        folder = board / "Rendezvous10-adv1-v0" / "mir2"

        def change(content: Any) -> None:
            if part == "verified":
                content["verified"].update(provisional="")
            elif part == "history":
                scores = {name: content["verified"][name] for name in ("clean", "worst", "iqm")}
                about = {"date": "2026-01-01", "kind": "verify", "table": "verified", "reason": "a first look"}
                content["history"].append({**about, **scores})
            else:
                content["verified"], content["history"] = None, []
                shutil.rmtree(folder / "verified")

        assert check_entry(folder, isolated=False, board=board).verified is not None
        _edit(folder, change)
        if part == "challenges":  # nothing of the keepers' is left: the row is a self-reported one
            assert check_entry(folder, isolated=False, board=board).verified is None
            return
        for look in (lambda: check_entry(folder, isolated=False, board=board), lambda: read_board(board)):
            with pytest.raises(EntryError, match=r"only `verify` and `challenge`, run by the board's keepers"):
                look()

    def test_a_board_without_a_ledger_has_no_verdicts(self, board: Path) -> None:
        (board / "ledger.json").unlink()
        with pytest.raises(EntryError, match=r"ledger\.json does not name"):
            read_board(board)

    def test_a_damaged_ledger(self, board: Path) -> None:
        (board / "ledger.json").write_text("[1]")
        with pytest.raises(EntryError, match="must map entries to hashes"):
            read_board(board)
        (board / "ledger.json").write_text("{")
        with pytest.raises(EntryError, match=r"ledger\.json cannot be read"):
            read_board(board)


class TestCopies:
    def test_one_policy_under_two_seeds(self, entry: Path) -> None:
        for name in ("policy.json", "weights.safetensors", "critic.safetensors"):
            shutil.copyfile(entry / "policies" / "seed0" / name, entry / "policies" / "seed1" / name)

        def change(content: Any) -> None:
            for file, same in zip(content["policies"][1]["files"], content["policies"][0]["files"], strict=True):
                file.update(sha256=same["sha256"], bytes=same["bytes"])

        _edit(entry, change)
        with pytest.raises(EntryError, match="two training seeds have the same policy"):
            inspect_entry(entry)

    @pytest.mark.parametrize(("change", "what"), [("name", "the name"), ("policy", "a policy")])
    def test_another_rows_name_or_policy(self, tmp_path: Path, change: str, what: str) -> None:
        first = tmp_path / SOURCE.parent.name / "mir2"
        shutil.copytree(SOURCE, first)
        second = Path(shutil.copytree(SOURCE, first.parent / "other"))
        for folder in (first, second):
            _edit(folder, lambda c: c.update(verified=None, history=[]))
        _edit(second, lambda c: c.update(entry="other"))
        if change == "name":
            title = json.loads((first / "entry.json").read_text())["method"]["name"]
            _edit(second, lambda c: c["method"].update(name=title.upper()))
            _edit(
                second,
                lambda c: [f.update(sha256="0" * 63 + str(n)) for n, p in enumerate(c["policies"]) for f in p["files"]],
            )
        else:
            _edit(second, lambda c: c["method"].update(name="Something else"))
        with pytest.raises(EntryError, match=f"has {what} of"):
            read_board(tmp_path)

    def test_a_linked_entry(self, tmp_path: Path) -> None:
        (tmp_path / SOURCE.parent.name).mkdir()
        (tmp_path / SOURCE.parent.name / "mir2").symlink_to(SOURCE)
        with pytest.raises(EntryError, match="is a link"):
            read_board(tmp_path)
        with pytest.raises(EntryError, match="is a link"):
            check_entry(tmp_path / SOURCE.parent.name / "mir2", isolated=False)


class TestTampering:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c["reported"]["cells"][0].update(clean=-1.0), "episodes.parquet says otherwise: `cells"),
            (lambda c: c["reported"]["clean"].update(mean=-1.0), "on the variant's scale"),
            (lambda c: c["reported"]["clean"].update(mean=-9.333, normalized=1.0), "`clean.mean` is"),
            (lambda c: c["reported"]["iqm"].update(value=0.99), "`iqm.value` is"),
            (lambda c: c["reported"]["attackers"].pop("dodge"), "suite-v1 also attacks with dodge"),
            (
                lambda c: c["reported"]["attackers"].update(mine=c["reported"]["attackers"]["dodge"]),
                "`attackers` has mine on one side only",
            ),
            (lambda c: c["reported"].update(floor=-1000.0), "floor and ceiling"),
            (lambda c: c["reported"].update(protocol="easy-v1"), "no protocol 'easy-v1'"),
            (lambda c: c["training"]["config"].update(gamma=0.5), "has another config"),
            (lambda c: c["method"].update(algorithm="maddpg"), "has another algorithm"),
            (lambda c: c.update(variant="mir2bench/Rendezvous99-adv1-v0"), "No variant"),
            (lambda c: c.update(variant="mir2bench/Rendezvous10-adv2-v0"), "`reported`"),
            (lambda c: c["training"]["code"].update(mir2bench="99.0.0"), "newer"),
            (lambda c: c["training"]["code"].update(mir2bench="latest"), "is no version"),
            (lambda c: c["policies"][0]["files"][0].update(bytes=5), "bytes, not 5"),
            (lambda c: c["policies"][0]["files"][0].update(sha256="0" * 64), "was altered"),
            (lambda c: c["policies"][0]["files"].pop(2), "is not named"),
            (lambda c: c["verified"].update(cells_total=7), "the whole protocol has 30 cells"),
            (lambda c: c["reported"].pop("episodes"), "reported.episodes: Field required"),
            (lambda c: c["reported"]["budget"].update(episodes=10**15), "but the budget says 1000000000000000"),
            (lambda c: c["reported"].update(date="9999-12-31"), "is still to come"),
            (lambda c: c["method"].update(name="a" + 9 * "\u0301"), "combining marks"),
            (lambda c: c["method"]["links"].update(paper="http://x"), "must be a link that begins with https"),
        ],
    )
    def test_entry_json(self, entry: Path, change: Callable[[Any], None], message: str) -> None:
        _edit(entry, change)
        with pytest.raises(EntryError, match=message):
            inspect_entry(entry)

    def test_a_best_of_selection_of_seeds_is_seen(self, entry: Path) -> None:
        """A declared seed needs its policy and its cells: none can be left out of the scores."""
        shutil.rmtree(entry / "policies" / "seed2")
        _edit(entry, lambda c: c["policies"].pop())
        with pytest.raises(EntryError, match="each declared training seed needs its policy"):
            inspect_entry(entry)
        _edit(entry, lambda c: c["training"].update(seeds=[0, 1]))
        with pytest.raises(EntryError, match="seed 2, which is not declared"):
            inspect_entry(entry)

    def test_files(self, entry: Path, tmp_path: Path) -> None:
        weights = entry / "policies" / "seed0" / "weights.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(EntryError, match="SHA-256"):
            inspect_entry(entry)
        weights.unlink()
        with pytest.raises(EntryError, match="is missing"):
            inspect_entry(entry)
        (tmp_path / "outside").write_bytes(content)
        weights.symlink_to(tmp_path / "outside")
        with pytest.raises(EntryError, match="links and devices are refused"):
            inspect_entry(entry)
        weights.unlink()
        weights.write_bytes(content)
        (entry / "more.zip").write_bytes(b"PK")
        with pytest.raises(EntryError, match=r"more\.zip.*no other files or archives"):
            inspect_entry(entry)

    def test_pickles_are_never_read(self, entry: Path, tmp_path: Path) -> None:
        """Weights that would run a command if anybody unpickled them, with all hashes made to fit."""
        bomb = b"cposix\nsystem\n(S'touch " + str(tmp_path / "boom").encode() + b"'\ntR."
        weights = entry / "policies" / "seed0" / "weights.safetensors"
        weights.write_bytes(bomb)
        digest = hashlib.sha256(bomb).hexdigest()
        _edit(entry, lambda c: c.update(weights_sha256=digest), "policies/seed0/policy.json")
        for name in ("weights.safetensors", "policy.json"):
            data = (weights.parent / name).read_bytes()

            def settle(content: Any, name: str = name, data: bytes = data) -> None:
                (file,) = [f for f in content["policies"][0]["files"] if f["path"].endswith(name)]
                file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

            _edit(entry, settle)
        with pytest.raises(EntryError, match="not hold a policy of a known architecture"):
            inspect_entry(entry)
        assert not (tmp_path / "boom").exists()


class Cheat:
    """Plays like another policy, but for a trick."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls = 0

    def initial_carry(self, batch: int) -> Any:
        return self.inner.initial_carry(batch)

    def act(self, obs: Any, carry: Any, mask: Any = None, *, rng: Any, deterministic: bool = True) -> Any:
        actions, carry = self.inner.act(obs, carry, mask, rng=rng, deterministic=deterministic)
        self.calls += 1
        return self.trick(np.array(actions), obs, rng), carry

    def trick(self, actions: Any, obs: Any, rng: Any) -> Any:
        raise NotImplementedError


class DiffersBetweenCalls(Cheat):
    def trick(self, actions, obs, rng):
        return actions * (0.5 if self.calls % 2 else 1.0)


class LooksAtTheSeed(Cheat):
    def trick(self, actions, obs, rng):
        return actions if rng.bit_generator.state["state"]["state"] % 2 else -actions


class KnowsItsPlace(Cheat):
    def trick(self, actions, obs, rng):
        actions[: len(actions) // 2] *= 0.5
        return actions


class ReadsTheState(Cheat):
    """Looks for the engine among all living objects, and does what the team's state tells."""

    def trick(self, actions, obs, rng):
        import gc

        from mir2bench.engines.base import Worlds

        worlds = [o for o in gc.get_objects() if type(o) is Worlds and len(o.engine.state) == len(obs)]
        return np.clip(actions + (worlds[0].engine.state[:, None, :2] if worlds else 0.0), -1, 1).astype(np.float32)


class Centralized(Cheat):
    def trick(self, actions, obs, rng):
        return np.clip(actions + obs[:, ::-1, :2], -1, 1)


class Breaks(Cheat):
    def __init__(self, inner: Any, how: str) -> None:
        super().__init__(inner)
        self.how = how

    def trick(self, actions, obs, rng):
        if self.how == "nan":
            return actions * np.nan
        return {"shape": actions[:, :3], "range": actions * 100 + 50, "text": actions.astype(str)}[self.how]


@pytest.fixture(scope="module")
def honest() -> Any:
    return load_policy(SOURCE / "policies" / "seed0")


class TestCheats:
    """Known networks and checked graphs cannot play such tricks; the check would see them all the same."""

    def test_the_honest_policy_passes(self, honest: Any) -> None:
        assert try_policy(honest, spec(WORLD)).returns.mean() > -15

    @pytest.mark.parametrize(
        ("cheat", "message"),
        [
            (DiffersBetweenCalls, "differently when asked again"),
            (LooksAtTheSeed, "depend on the generator"),
            (KnowsItsPlace, "a world's place in the batch"),
            (ReadsTheState, "depend on the generator|differently|place"),
            (Centralized, "changes what others do"),
        ],
    )
    def test_it_is_caught(self, honest: Any, cheat: type[Cheat], message: str) -> None:
        with pytest.raises(EntryError, match=message):
            try_policy(cheat(honest), spec(WORLD))

    @pytest.mark.parametrize("how", ["nan", "shape", "range", "text"])
    def test_actions_that_cannot_be_played(self, honest: Any, how: str) -> None:
        with pytest.raises(PolicyError):
            try_policy(Breaks(honest, how), spec(WORLD))

    def test_answering_slowly(self, honest: Any) -> None:
        with pytest.raises(EntryError, match="processor time to answer"):
            try_policy(honest, spec(WORLD), max_answer=1e-6)

    def test_start_states_learned_by_heart_gain_nothing(self, honest: Any) -> None:
        """A team that does well from the public start states alone is found out by salted ones."""
        variant = spec(WORLD)
        starts: dict[bytes, None] = {}

        class Remembers(Cheat):
            """Plays well in worlds whose first observations it has seen, and not at all in others."""

            learning = True

            def initial_carry(self, batch: int) -> Any:
                return np.full(batch, -1)

            def act(self, obs, carry, mask=None, *, rng, deterministic=True):
                actions, _ = self.inner.act(obs, None, mask, rng=rng, deterministic=deterministic)
                if self.learning:
                    starts.update(dict.fromkeys(o.tobytes() for o in obs))
                carry = np.where(carry < 0, [o.tobytes() in starts for o in obs], carry)
                return np.array(actions) * carry[:, None, None].astype(np.float32), carry

        cheat, nobody, count = Remembers(honest), Partition.of(variant.n_agents), 16
        draw = salted_draw(b"s" * 32, variant, get_protocol("suite-v1"), 1)
        salted = [draw.first_episode + i for i in range(count)]
        rollout(variant, cheat, nobody, None, evaluation_seeds(count))
        cheat.learning = False
        public = rollout(variant, cheat, nobody, None, evaluation_seeds(count)).returns
        hidden = rollout(variant, cheat, nobody, None, salted).returns
        assert public.mean() > -15
        assert hidden.mean() < -50
        assert not set(salted) & set(evaluation_seeds(10_000))


class TestFuzz:
    def test_a_few_hundred_mutations(self, tmp_path: Path) -> None:
        done = run(250, 7, tmp_path)
        assert sum(done.counts.values()) == 250
        assert sum(n for name, n in done.counts.items() if name.endswith("refused")) > 220

    @settings(max_examples=60, deadline=None, database=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=20,
        )
    )
    def test_any_json(self, value: Any) -> None:
        with pytest.raises(EntryError) as caught:
            parse_entry(json.dumps(value))
        assert len(str(caught.value).splitlines()) == 1

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.text(min_size=1) | st.lists(st.sampled_from(["..", ".", "a", "", "~", "C:", "a.", "\\"])).map("/".join))
    def test_paths_stay_inside(self, path: str) -> None:
        try:
            file = File(path=path, sha256="0" * 64, bytes=1)
        except ValueError:
            return
        root = Path("/board/entry")
        assert (root / file.path).resolve().is_relative_to(root)
        assert not set(file.path) & set("\\:~\0")

    @settings(max_examples=100, deadline=None, database=None)
    @given(
        st.text(min_size=9) | st.text().map(lambda t: f"https://{t}") | st.text().map(lambda t: f"https://a.org/{t}")
    )
    def test_links_are_https(self, link: str) -> None:
        try:
            found = Links(paper=link)
        except ValueError:
            return
        assert str(found.paper).startswith("https://")
        assert not set(str(found.paper)) & set("<>\"' \n")


class TestSandbox:
    def test_a_refusal_comes_through_as_its_own_line(self, entry: Path) -> None:
        assert check_entry(entry) == read_entry(entry)
        _edit(entry, lambda c: c["reported"]["iqm"].update(value=0.99))
        with pytest.raises(EntryError, match=r"^episodes.parquet says otherwise: `iqm.value`"):
            check_entry(entry)

    def test_time_and_memory_end(self, entry: Path) -> None:
        with pytest.raises(TimeoutFailure, match="1 s of processor time"):
            run_limited("inspect", {"folder": str(entry)}, Limits(cpu_s=1, wall_s=120))
        with pytest.raises(EntryError, match="memory|process died"):
            run_limited("inspect", {"folder": str(entry)}, Limits(cpu_s=60, wall_s=120, memory=300 * 2**20))

    def test_there_is_no_network(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        code = (
            "import socket, sys\n"
            "from mir2bench.leaderboard import sandbox\n"
            f"socket.create_connection(('127.0.0.1', {port}), 5).close()\n"
            "if sys.argv[1] == 'sockets': sandbox._leave_network = lambda: False\n"
            "print(sandbox.limit_this_process(sandbox.Limits()))\n"
            "try:\n"
            f"    socket.create_connection(('127.0.0.1', {port}), 5)\n"
            "except OSError as error:\n"
            "    print(type(error).__name__)\n"
        )
        for wall, expected in (("namespace", {"OSError", "ConnectionRefusedError"}), ("sockets", {"PermissionError"})):
            done = subprocess.run([sys.executable, "-c", code, wall], capture_output=True, text=True, timeout=60)
            how, error = done.stdout.split()
            assert how in (wall, "sockets")  # not every system allows a namespace
            assert error in expected | ({"PermissionError"} if how == "sockets" else set()), done.stderr
        listener.close()

    def test_it_cannot_write_large_files(self, tmp_path: Path) -> None:
        code = (
            "from mir2bench.leaderboard.sandbox import Limits, limit_this_process\n"
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "limit_this_process(Limits(file=1000))\n"
            f"file = open({str(tmp_path / 'x')!r}, 'wb')\n"
            "file.write(b'x' * 5000)\n"
            "file.close()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert "File too large" in done.stderr
