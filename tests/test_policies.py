"""Policy bundles: what comes back, and what is refused. And the two policies that need no training."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mir2bench
from mir2bench.content import content_dir
from mir2bench.errors import PolicyError, UnknownNameError
from mir2bench.learning.networks import Actor, ActorShape, Critic
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.policies import IdlePolicy, RandomPolicy, build_scripted, load_policy, read_bundle, save_policy
from mir2bench.registration import VariantSpec

ID = "mir2bench/Rendezvous5-adv1-v0"


def network(variant: VariantSpec, *, recurrent: bool = False, n_agents: int | None = None) -> NetworkPolicy:
    layout = variant.layout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        actor = Actor(ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, 8, recurrent))
    return NetworkPolicy(actor, variant.n_agents if n_agents is None else n_agents, noise=0.25)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    variant = mir2bench.spec(ID)
    return save_policy(
        network(variant), tmp_path / "bundle", variant=variant, algorithm="maddpg", config={"hidden": 8}, seed=7
    )


def edit(bundle: Path, **changes: Any) -> None:
    """Change keys of policy.json; None removes one."""
    path = bundle / "policy.json"
    text = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in text.items() if value is not None}))


def rewrite_weights(bundle: Path, content: bytes) -> None:
    """Put other weights into a bundle, with the hash that belongs to them."""
    (bundle / "weights.safetensors").write_bytes(content)
    edit(bundle, weights_sha256=hashlib.sha256(content).hexdigest())


# --- round trips ---


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("world", ["continuous", "discrete"])
def test_a_round_trip_gives_the_same_actions(world: str, recurrent: bool, tmp_path: Path, toy: list[str]) -> None:
    variant = mir2bench.spec(ID if world == "continuous" else toy[1])
    layout = variant.layout
    before = network(variant, recurrent=recurrent)
    save_policy(before, tmp_path / "b", variant=variant, algorithm="mir2", config={}, seed=1)
    after = load_policy(tmp_path / "b")
    rng = np.random.default_rng(0)
    carries = [policy.initial_carry(6) for policy in (before, after)]
    assert (carries[0] is None) == (not recurrent)
    for step in range(4):
        obs = rng.normal(size=(6, variant.n_agents, layout.obs_dim)).astype(np.float32)
        mask = np.ones((6, variant.n_agents, 3), np.int8) if layout.discrete else None
        if mask is not None:
            mask[:, :, step % 3] = 0
        acted = [
            policy.act(obs, carry, mask, rng=np.random.default_rng(step), deterministic=step % 2 == 0)
            for policy, carry in zip((before, after), carries, strict=True)
        ]
        carries = [carry for _, carry in acted]
        (one, _), (other, _) = acted
        assert one.dtype == other.dtype == (np.int64 if layout.discrete else np.float32)
        assert one.shape == layout.action_shape(6)
        assert one.tobytes() == other.tobytes()
        assert not recurrent or carries[0].tobytes() == carries[1].tobytes()


def test_three_lines_suffice(bundle: Path) -> None:
    obs = np.zeros((2, 5, mir2bench.spec(ID).layout.obs_dim), np.float32)
    policy = mir2bench.load_policy(bundle)
    actions, carry = policy.act(obs, policy.initial_carry(len(obs)), rng=np.random.default_rng(0))
    assert actions.shape == (2, 5, 2)
    assert carry is None


def test_the_text_says_where_the_policy_is_from(bundle: Path) -> None:
    text = read_bundle(bundle)
    assert {key: text[key] for key in ("format", "variant", "algorithm", "config", "seed", "n_agents", "noise")} == {
        "format": 1,
        "variant": ID,
        "algorithm": "maddpg",
        "config": {"hidden": 8},
        "seed": 7,
        "n_agents": 5,
        "noise": 0.25,
    }
    assert text["mir2bench"] == mir2bench.__version__
    assert sorted(path.name for path in bundle.iterdir()) == ["policy.json", "weights.safetensors"]


def test_adversaries_can_be_kept_with_further_facts(tmp_path: Path) -> None:
    variant = mir2bench.spec("Rendezvous5-adv2-v0")
    pair = network(variant, n_agents=2)
    folder = tmp_path / "new" / "pair"
    save_policy(pair, folder, variant=variant, algorithm="learned", config={}, seed=1, extra={"phi": "01010"})
    assert read_bundle(folder)["phi"] == "01010"
    assert load_policy(folder).n_agents == 2  # type: ignore[attr-defined]


def test_loaded_weights_are_frozen(bundle: Path) -> None:
    policy = load_policy(bundle)
    assert not any(parameter.requires_grad for parameter in policy.actor.parameters())  # type: ignore[attr-defined]


def test_loading_draws_nothing_from_the_global_generator(bundle: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_policy(bundle)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_whole_number_as_noise_comes_back(tmp_path: Path) -> None:
    variant = mir2bench.spec(ID)
    silent = NetworkPolicy(network(variant).actor, 5, noise=0)
    assert (
        load_policy(save_policy(silent, tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0)).noise == 0.0
    )  # type: ignore[attr-defined]


# --- a team's critic, and the adversary it was trained against ---


def full_team(variant: VariantSpec, knows_phi: int = 0) -> NetworkPolicy:
    layout = variant.layout
    policy, adversary = network(variant), network(variant, n_agents=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        policy.critic = Critic(layout.obs_dim, layout.action_dim, layout.state_dim, 8, knows_phi)
        adversary.actor = Actor(adversary.actor.shape)
    policy.training_adversary = adversary
    return policy


@pytest.fixture
def full_bundle(tmp_path: Path) -> Path:
    variant = mir2bench.spec(ID)
    return save_policy(full_team(variant), tmp_path / "full", variant=variant, algorithm="advtrain", config={}, seed=7)


@pytest.mark.parametrize("knows_phi", [False, True])
@pytest.mark.parametrize("world", ["continuous", "discrete"])
def test_critic_and_adversary_come_back(world: str, knows_phi: bool, tmp_path: Path, toy: list[str]) -> None:
    variant = mir2bench.spec(ID if world == "continuous" else toy[1])
    layout, n = variant.layout, variant.n_agents
    before: Any = full_team(variant, n if knows_phi else 0)
    save_policy(before, tmp_path / "b", variant=variant, algorithm="advtrain", config={"hidden": 8}, seed=1)
    files = sorted(str(path.relative_to(tmp_path / "b")) for path in (tmp_path / "b").rglob("*"))
    assert files == [
        *("adversary", "adversary/policy.json", "adversary/weights.safetensors"),
        *("critic.safetensors", "policy.json", "weights.safetensors"),
    ]
    after: Any = load_policy(tmp_path / "b")
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator)

    inputs = draw(6, layout.state_dim), draw(6, n, layout.obs_dim), draw(6, n, layout.action_dim)
    phi = torch.eye(n)[torch.arange(6) % n]
    assert torch.equal(after.critic(*inputs, phi), before.critic(*inputs, phi))
    assert after.critic.shape == before.critic.shape
    assert not any(parameter.requires_grad for parameter in after.critic.parameters())

    obs = inputs[1][:, :1].numpy()
    actions = [
        policy.training_adversary.act(obs, None, rng=np.random.default_rng(0))[0].tobytes()
        for policy in (before, after)
    ]
    assert actions[0] == actions[1] != after.act(obs, None, rng=np.random.default_rng(0))[0].tobytes()
    assert after.training_adversary.n_agents == 1
    assert after.training_adversary.critic is None
    text = read_bundle(tmp_path / "b" / "adversary")
    assert (text["variant"], text["algorithm"], text["config"]) == (variant.id, "advtrain", {"hidden": 8})


def test_policies_that_ship_neither_load_as_before(bundle: Path) -> None:
    policy: Any = load_policy(bundle)
    assert policy.critic is None
    assert policy.training_adversary is None


def test_the_published_baselines_load() -> None:
    folders = sorted(path.parent for path in content_dir("baselines").rglob("policy.json"))
    assert folders
    for folder in folders[:: max(1, len(folders) // 4)]:
        policy: Any = load_policy(folder)
        assert ("critic" in read_bundle(folder)["architecture"]) == (policy.critic is not None)


def test_a_team_with_a_critic_can_play_other_threats(full_bundle: Path) -> None:
    policy: Any = load_policy(full_bundle, "Rendezvous5-adv2-v0")
    assert policy.critic is not None
    assert policy.training_adversary is not None


def test_a_missing_critic(full_bundle: Path) -> None:
    (full_bundle / "critic.safetensors").unlink()
    with pytest.raises(PolicyError, match=r"full is incomplete: cannot read .*critic.safetensors: No such file"):
        load_policy(full_bundle)


@pytest.mark.parametrize("damage", ["truncate", "alter", "no hash"])
def test_a_damaged_critic(full_bundle: Path, damage: str) -> None:
    path = full_bundle / "critic.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "no hash":
        edit(full_bundle, critic_sha256=None)
    elif damage == "truncate":
        path.write_bytes(content[:-3])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(PolicyError, match=r"critic.safetensors was truncated or altered: its SHA-256 is not the one"):
        load_policy(full_bundle)


def rewrite_critic(bundle: Path, content: bytes) -> None:
    """Put another critic into a bundle, with the hash that belongs to it."""
    (bundle / "critic.safetensors").write_bytes(content)
    edit(bundle, critic_sha256=hashlib.sha256(content).hexdigest())


def test_a_critic_that_is_no_critic(full_bundle: Path) -> None:
    rewrite_critic(full_bundle, b"none")
    with pytest.raises(PolicyError, match="full does not hold a policy of a known architecture"):
        load_policy(full_bundle)
    rewrite_critic(full_bundle, (full_bundle / "weights.safetensors").read_bytes())
    with pytest.raises(PolicyError, match=r"(?s)does not hold a policy of a known architecture: .*agent_in.weight"):
        load_policy(full_bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs_dim": 3}, f"the critic's sizes do not fit {ID}"),
        ({"action_dim": 3}, f"the critic's sizes do not fit {ID}"),
        ({"state_dim": 3}, f"the critic's sizes do not fit {ID}"),
        ({"hidden": 0}, f"the critic's sizes do not fit {ID}"),
        ({"hidden": 10**9}, f"the critic's sizes do not fit {ID}"),
        ({"knows_phi": 4}, f"the critic's sizes do not fit {ID}"),
        ({"knows_phi": "yes"}, f"the critic's sizes do not fit {ID}"),
        ({"knows_phi": 5}, "size mismatch"),
        ({"hidden": 9}, "size mismatch"),
        ({"hidden": "8"}, "does not hold a policy of a known architecture"),
        ({"layers": 2}, "does not hold a policy of a known architecture"),
    ],
)
def test_an_altered_critic(full_bundle: Path, changes: dict[str, Any], message: str) -> None:
    architecture = read_bundle(full_bundle)["architecture"]
    edit(full_bundle, architecture={**architecture, "critic": {**architecture["critic"], **changes}})
    with pytest.raises(PolicyError, match="full does not hold a policy of a known architecture") as caught:
        load_policy(full_bundle)
    assert message in str(caught.value)


@pytest.mark.parametrize("critic", [None, [1], {"hidden": 8}, 7])
def test_an_incomplete_critic(full_bundle: Path, critic: Any) -> None:
    edit(full_bundle, architecture={**read_bundle(full_bundle)["architecture"], "critic": critic})
    with pytest.raises(PolicyError, match="full does not hold a policy of a known architecture"):
        load_policy(full_bundle)


def test_diverged_critics_are_neither_saved_nor_loaded(full_bundle: Path, tmp_path: Path) -> None:
    from safetensors.torch import save

    variant = mir2bench.spec(ID)
    policy = full_team(variant)
    assert policy.critic is not None
    with torch.no_grad():
        policy.critic.value.bias[0] = float("inf")
    with pytest.raises(PolicyError, match="training has diverged, so it is not saved"):
        save_policy(policy, tmp_path / "diverged", variant=variant, algorithm="x", config={}, seed=0)
    rewrite_critic(full_bundle, save(dict(policy.critic.state_dict())))
    with pytest.raises(PolicyError, match="its weights or its noise are not finite"):
        load_policy(full_bundle)


def test_an_adversary_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    variant = mir2bench.spec(ID)
    policy = full_team(variant)
    assert policy.training_adversary is not None
    with torch.no_grad():
        policy.training_adversary.actor.head.bias[0] = float("nan")
    with pytest.raises(PolicyError, match="training has diverged"):
        save_policy(policy, tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0)
    assert not list(tmp_path.iterdir())


def test_a_damaged_adversary(full_bundle: Path) -> None:
    path = full_bundle / "adversary" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(PolicyError, match=r"adversary/weights.safetensors was truncated or altered"):
        load_policy(full_bundle)
    path.unlink()
    with pytest.raises(PolicyError, match=r"adversary is incomplete: cannot read"):
        load_policy(full_bundle)
    (path.parent / "policy.json").unlink()
    with pytest.raises(PolicyError, match=r"adversary is not a policy bundle: cannot read"):
        load_policy(full_bundle)


def test_an_adversary_of_another_world(full_bundle: Path) -> None:
    edit(full_bundle / "adversary", variant="mir2bench/Rendezvous10-adv1-v0")
    with pytest.raises(PolicyError, match=r"adversary holds a policy for .*Rendezvous10-adv1-v0, which cannot play"):
        load_policy(full_bundle)


# --- what is refused when loading ---


def test_no_bundle(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere is not a policy bundle: cannot read .*policy.json: No such file"):
        load_policy(tmp_path / "nowhere")
    (bundle / "weights.safetensors").unlink()
    with pytest.raises(PolicyError, match=r"bundle is incomplete: cannot read .*weights.safetensors: No such file"):
        load_policy(bundle)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{'format': 1}", "policy.json is damaged: it is not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "must hold a JSON object, but it holds a list"),
        (b"{}", "the key `format` is missing"),
    ],
)
def test_damaged_text(bundle: Path, content: bytes, message: str) -> None:
    (bundle / "policy.json").write_bytes(content)
    with pytest.raises(PolicyError, match=message):
        load_policy(bundle)


KEYS = ("format", "variant", "algorithm", "config", "seed", "n_agents", "noise", "architecture", "weights_sha256")


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key(bundle: Path, key: str) -> None:
    edit(bundle, **{key: None})
    with pytest.raises(PolicyError, match=f"policy.json: the key `{key}` is missing"):
        load_policy(bundle)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", "7", "`seed` must be of type int, but it is '7'"),
        ("seed", True, "`seed` must be of type int, but it is True"),
        ("config", [], r"`config` must be of type dict, but it is \[\]"),
        ("variant", 5, "`variant` must be of type str"),
        ("n_agents", 5.0, "`n_agents` must be of type int"),
        ("noise", "small", "`noise` must be of type float"),
        ("architecture", "actor", "`architecture` must be of type dict"),
        ("format", 2, "has format 2, but this version of mir2bench reads format 1"),
    ],
)
def test_a_wrong_value(bundle: Path, key: str, value: Any, message: str) -> None:
    edit(bundle, **{key: value})
    with pytest.raises(PolicyError, match=message):
        load_policy(bundle)


def test_an_unknown_variant(bundle: Path) -> None:
    edit(bundle, variant="mir2bench/Rendezvous6-adv1-v0")
    with pytest.raises(UnknownNameError, match="Did you mean"):
        load_policy(bundle)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_truncated_weights(bundle: Path, keep: int) -> None:
    path = bundle / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PolicyError, match=r"weights.safetensors was truncated or altered: its SHA-256"):
        load_policy(bundle)
    rewrite_weights(bundle, path.read_bytes())  # even with the hash that fits
    with pytest.raises(PolicyError, match="does not hold a policy of a known architecture"):
        load_policy(bundle)


def test_altered_weights(bundle: Path) -> None:
    path = bundle / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(PolicyError, match="truncated or altered"):
        load_policy(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": 9},
        {"hidden": 0},
        {"hidden": -8},
        {"hidden": 10**9},
        {"hidden": "8"},
        {"obs_dim": 3},
        {"action_dim": 3},
        {"discrete": True},
        {"recurrent": True},
        {"layers": 2},
    ],
)
def test_an_altered_architecture(bundle: Path, changes: dict[str, Any]) -> None:
    actor = read_bundle(bundle)["architecture"]["actor"]
    edit(bundle, architecture={"actor": {**actor, **changes}})
    with pytest.raises(PolicyError, match="bundle does not hold a policy of a known architecture"):
        load_policy(bundle)


@pytest.mark.parametrize("architecture", [{}, {"actor": None}, {"actor": [1]}, {"actor": {"hidden": 8}}])
def test_an_incomplete_architecture(bundle: Path, architecture: dict[str, Any]) -> None:
    edit(bundle, architecture=architecture)
    with pytest.raises(PolicyError, match="does not hold a policy of a known architecture"):
        load_policy(bundle)


@pytest.mark.parametrize("n_agents", [0, -1, 6])
def test_a_number_of_agents_that_cannot_be(bundle: Path, n_agents: int) -> None:
    edit(bundle, n_agents=n_agents)
    with pytest.raises(PolicyError, match=f"sizes do not fit {ID}"):
        load_policy(bundle)


def test_worlds_that_differ_in_their_threat_share_policies(bundle: Path) -> None:
    for adversaries in (0, 1, 2):
        load_policy(bundle, f"Rendezvous5-adv{adversaries}-v0")
    with pytest.raises(PolicyError, match=f"holds a policy for {ID}, which cannot play mir2bench/Rendezvous10-adv1-v0"):
        load_policy(bundle, "Rendezvous10-adv1-v0")
    with pytest.raises(PolicyError, match="cannot play"):
        load_policy(bundle, mir2bench.spec("Rendezvous20-adv0-v0"))


def test_other_arguments_of_the_same_engine_are_another_world(toy: list[str], tmp_path: Path) -> None:
    from dataclasses import replace

    variant = mir2bench.spec(toy[1])
    save_policy(network(variant), tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0)
    load_policy(tmp_path / "b", toy[2])
    with pytest.raises(PolicyError, match="cannot play mir2bench/Toy3-adv1-v1"):
        load_policy(tmp_path / "b", replace(variant, id="mir2bench/Toy3-adv1-v1"))
    with pytest.raises(PolicyError, match="cannot play"):
        load_policy(tmp_path / "b", replace(variant, engine_args={"ending": 0.0}))


class Boom:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_nothing_in_a_bundle_is_executed(bundle: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    rewrite_weights(bundle, pickle.dumps(Boom(mark)))
    with pytest.raises(PolicyError, match="does not hold a policy of a known architecture"):
        load_policy(bundle)
    torch.save({"inner.weight": Boom(mark)}, bundle / "weights.safetensors")
    rewrite_weights(bundle, (bundle / "weights.safetensors").read_bytes())
    with pytest.raises(PolicyError, match="does not hold a policy of a known architecture"):
        load_policy(bundle)
    assert not mark.exists()


def test_enormous_weights_are_not_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mir2bench.policies._MAX_WEIGHTS", 100)
    with pytest.raises(PolicyError, match="weights.safetensors is larger than 100 bytes"):
        load_policy(bundle)


# --- what is refused when saving ---


def test_only_networks_can_be_saved(tmp_path: Path) -> None:
    variant = mir2bench.spec(ID)
    with pytest.raises(PolicyError, match="only network policies can be saved, but this is a IdlePolicy"):
        save_policy(IdlePolicy(variant.layout), tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(bundle: Path, tmp_path: Path) -> None:
    variant = mir2bench.spec(ID)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    (tmp_path / "file").write_text("mine")
    for target in (bundle, tmp_path / "file"):
        with pytest.raises(PolicyError, match=f"{target.name} exists and is not empty. Choose another folder"):
            save_policy(network(variant), target, variant=variant, algorithm="x", config={}, seed=0)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    load_policy(save_policy(network(variant), tmp_path / "empty", variant=variant, algorithm="x", config={}, seed=0))


@pytest.mark.parametrize("step", ["write_bytes", "write_text", "rename"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(self: Path, *args: Any, **kwargs: Any) -> None:
        if step == "write_bytes":
            with self.open("wb") as file:  # half of it fits
                file.write(args[0][: len(args[0]) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    variant = mir2bench.spec(ID)
    monkeypatch.setattr(Path, step, full)
    with pytest.raises(OSError, match="No space left"):
        save_policy(network(variant), tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0)
    assert not list(tmp_path.iterdir())


def test_a_read_only_folder_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    variant = mir2bench.spec(ID)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)  # the tests may run as a user whom no mode bits stop
    with pytest.raises(PermissionError, match="Permission denied"):
        save_policy(network(variant), tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0)
    assert not list(tmp_path.iterdir())


def test_settings_that_json_cannot_hold_leave_nothing_behind(tmp_path: Path) -> None:
    variant = mir2bench.spec(ID)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_policy(network(variant), tmp_path / "b", variant=variant, algorithm="x", config={"f": print}, seed=0)
    assert not list(tmp_path.iterdir())


# --- policies that need no training ---


def masks(batch: int, seed: int) -> np.ndarray:
    """Return random masks (batch, 3, 3) with at least one legal action."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((batch, 3, 3)) < 0.5).astype(np.int8)
    np.put_along_axis(mask, rng.integers(3, size=(batch, 3, 1)), 1, axis=-1)
    return mask


def test_idle_play(toy: list[str]) -> None:
    layout = mir2bench.spec(ID).layout
    obs = np.ones((4, 5, layout.obs_dim), np.float32)
    actions, carry = IdlePolicy(layout).act(obs, None, rng=np.random.default_rng(0))
    assert actions.dtype == np.float32
    assert np.array_equal(actions, np.zeros((4, 5, 2)))
    assert carry is IdlePolicy(layout).initial_carry(4) is None

    discrete = IdlePolicy(mir2bench.spec(toy[1]).layout)
    mask = masks(100, 0)
    actions, _ = discrete.act(np.zeros((100, 3, 4), np.float32), None, mask, rng=np.random.default_rng(0))
    assert np.array_equal(actions, [[row.tolist().index(1) for row in world] for world in mask])
    actions, _ = discrete.act(np.zeros((100, 3, 4), np.float32), None, rng=np.random.default_rng(0))
    assert actions.dtype == np.int64
    assert not actions.any()


def test_random_play_is_uniform(toy: list[str]) -> None:
    layout = mir2bench.spec(ID).layout
    rng = np.random.default_rng(0)
    actions, _ = RandomPolicy(layout).act(np.zeros((4_000, 5, layout.obs_dim), np.float32), None, rng=rng)
    assert actions.shape == (4_000, 5, 2)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1
    counts = np.histogram(actions, bins=8, range=(-1, 1))[0]
    assert np.abs(counts - 5_000).max() < 4 * np.sqrt(5_000 * 7 / 8)

    discrete = RandomPolicy(mir2bench.spec(toy[1]).layout)
    mask = np.tile(np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], np.int8), (30_000, 1, 1))
    actions, _ = discrete.act(np.zeros((30_000, 3, 4), np.float32), None, mask, rng=rng)
    counts = np.stack([np.bincount(actions[:, agent], minlength=3) for agent in range(3)]) / 30_000
    assert np.abs(counts - [[0.5, 0, 0.5], [0, 1, 0], [1 / 3] * 3]).max() < 0.012
    assert counts[0, 1] == counts[1, 0] == counts[1, 2] == 0
    actions, _ = discrete.act(np.zeros((30_000, 3, 4), np.float32), None, rng=rng)
    assert np.abs(np.bincount(actions.ravel()) / 90_000 - 1 / 3).max() < 0.007


def test_random_play_depends_on_its_generator_alone() -> None:
    policy = RandomPolicy(mir2bench.spec(ID).layout)
    obs = np.zeros((3, 5, policy._layout.obs_dim), np.float32)
    one, same, other = (
        policy.act(obs, None, rng=np.random.default_rng(seed), deterministic=greedy)[0]
        for seed, greedy in ((1, True), (1, False), (2, True))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_residual_policies_keep_their_script(tmp_path: Path) -> None:
    variant = mir2bench.spec("Rendezvous10-adv1-v0")
    script = build_scripted(variant.engine_class.scripted_traitors["flee"], variant)
    saved = network(variant, n_agents=1)
    saved.script = ("flee", script)
    folder = save_policy(saved, tmp_path / "bundle", variant=variant, algorithm="learned", config={}, seed=0)
    loaded = load_policy(folder)
    obs = np.random.default_rng(0).uniform(-1, 1, (4, 1, variant.layout.obs_dim)).astype(np.float32)
    obs[..., -10:] = np.eye(10)[3]
    rng = np.random.default_rng(0)
    expected = saved.act(obs, None, rng=rng)[0]
    np.testing.assert_array_equal(loaded.act(obs, None, rng=rng)[0], expected)
    assert not np.array_equal(network(variant, n_agents=1).act(obs, None, rng=rng)[0], expected)
    text = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**text, "script": "os:system"}))
    with pytest.raises(PolicyError, match="builds on the script 'os:system', which Rendezvous does not have"):
        load_policy(folder)


def test_observations_of_another_world_are_refused(bundle: Path) -> None:
    policy = load_policy(bundle)
    with pytest.raises(PolicyError, match=r"reads observations of shape \(worlds, agents, 30\), but they have shape"):
        policy.act(np.zeros((1, 10, 60), np.float32), None, rng=np.random.default_rng(0))


def test_diverged_policies_are_neither_saved_nor_loaded(bundle: Path, tmp_path: Path) -> None:
    variant = mir2bench.spec(ID)
    policy = network(variant)
    with torch.no_grad():
        policy.actor.head.bias[0] = float("nan")
    with pytest.raises(PolicyError, match="training has diverged, so it is not saved"):
        save_policy(policy, tmp_path / "diverged", variant=variant, algorithm="maddpg", config={}, seed=0)
    assert not (tmp_path / "diverged").exists()
    edit(bundle, noise=float("nan"))
    with pytest.raises(PolicyError, match="its weights or its noise are not finite"):
        load_policy(bundle)
