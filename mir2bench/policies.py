"""Policies: what is evaluated, and the bundles they are kept in.

A policy sees observations, legal-action masks and its own generator; nothing else. A bundle is a folder: `policy.json`
says for which variant and by which algorithm, configuration and seed it was trained, and holds the hash of
`weights.safetensors`, or of `policy.onnx` (see `onnx_policies`). A team's critic (`critic.safetensors`) and the
adversary it was trained against (a bundle in `adversary/`) may lie beside it, for attackers and analyses. Loading reads
numbers and checked graphs only: no code in a bundle is ever executed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import mir2bench
from mir2bench.engines.base import Layout
from mir2bench.errors import PolicyError
from mir2bench.registration import VariantSpec, spec

Carry = Any
"""What a policy remembers between steps: None, or an array whose first axis is the batch."""


class Policy(Protocol):
    """A decentralized joint policy for n agents (a team of N, or the K adversaries of a partition)."""

    def initial_carry(self, batch: int) -> Carry:
        """Return the memory with which `batch` episodes start."""
        ...

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """Choose actions.

        Args:
            obs: (B, n, O) float32.
            carry: what `initial_carry` or the last call returned.
            mask: (B, n, A), nonzero for legal actions; None in worlds without masks.
            rng: the only source of randomness.
            deterministic: greedy actions rather than samples.

        Returns:
            Actions (B, n, A) float32 in [-1, 1], or (B, n) int64 in discrete worlds, and the new carry.
        """
        ...


class IdlePolicy:
    """Zero actions; in discrete worlds the first legal action."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def initial_carry(self, batch: int) -> Carry:
        """Return None: nothing is remembered."""
        return None

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`."""
        batch, n = obs.shape[:2]
        if self._layout.discrete:
            return (np.zeros((batch, n), np.int64) if mask is None else mask.argmax(axis=-1)), carry
        return np.zeros(self._layout.action_shape(batch, n), dtype=np.float32), carry


class RandomPolicy:
    """Uniform actions in [-1, 1], or uniform over the legal ones."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def initial_carry(self, batch: int) -> Carry:
        """Return None: nothing is remembered."""
        return None

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`; random even when `deterministic`, since it has no greedy action."""
        batch, n = obs.shape[:2]
        if not self._layout.discrete:
            return rng.uniform(-1.0, 1.0, self._layout.action_shape(batch, n)).astype(np.float32), carry
        legal = np.ones((batch, n, self._layout.action_dim)) if mask is None else np.asarray(mask, dtype=np.float64)
        # The largest of independent uniform numbers is uniform over the legal actions.
        return np.where(legal > 0, rng.random(legal.shape), -1.0).argmax(axis=-1), carry


FORMAT = 1
"""Version of the bundle's layout."""
ADVERSARY = "adversary"
"""Folder of a bundle that holds the adversary its team was trained against, as a bundle of its own."""
_MAX_WEIGHTS = 64 * 2**20  # bytes; far above any policy here, far below what would hurt to read


def save_policy(
    policy: Policy,
    folder: str | Path,
    *,
    variant: VariantSpec,
    algorithm: str,
    config: Mapping[str, Any],
    seed: int,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle; it appears whole or not at all.

    Args:
        policy: a `NetworkPolicy`.
        folder: where; it must not exist yet, or be empty.
        variant: what it was trained on.
        algorithm: name of the defender or attacker.
        config: its resolved configuration, as JSON data.
        seed: its training seed.
        extra: further facts for `policy.json`, as JSON data (an attacker's phi, for example).

    Returns:
        The folder.

    Raises:
        PolicyError: the policy has no known architecture or its weights are not finite, or the folder holds something
            already.
        OSError: the disk is full or read-only; nothing is left behind then.
    """
    from safetensors.torch import save

    from mir2bench.learning.architectures import describe
    from mir2bench.learning.policy import NetworkPolicy

    if not isinstance(policy, NetworkPolicy):
        raise PolicyError(f"only network policies can be saved, but this is a {type(policy).__name__}.")

    def pack(network: Any) -> bytes:
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise PolicyError("the policy's weights are not all finite: its training has diverged, so it is not saved.")
        return save({name: value.contiguous() for name, value in network.state_dict().items()})

    files = {"weights": pack(policy.actor)}
    architecture = describe(policy.actor)
    if policy.critic is not None:
        files["critic"] = pack(policy.critic)
        architecture["critic"] = asdict(policy.critic.shape)
    text = {
        "format": FORMAT,
        "variant": variant.id,
        "algorithm": algorithm,
        "config": dict(config),
        "seed": seed,
        "n_agents": policy.n_agents,
        "noise": float(policy.noise),
        "script": policy.script[0] if policy.script else "",
        "architecture": architecture,
        **{f"{name}_sha256": hashlib.sha256(content).hexdigest() for name, content in files.items()},
        **(extra or {}),
    }

    def add_adversary(whole: Path) -> None:
        if policy.training_adversary is not None:
            facts = {"variant": variant, "algorithm": algorithm, "config": config, "seed": seed}
            save_policy(policy.training_adversary, whole / ADVERSARY, **facts)

    contents = {f"{name}.safetensors": content for name, content in files.items()}
    return write_bundle(folder, text, contents, add_adversary)


def write_bundle(
    folder: str | Path,
    text: Mapping[str, Any],
    files: Mapping[str, bytes],
    add: Callable[[Path], object] = lambda whole: None,
) -> Path:
    """Write a bundle's `policy.json` and further files; they appear together or not at all.

    Args:
        folder: where; it must not exist yet, or be empty.
        text: what `policy.json` says; the version of mir2bench is added.
        files: name -> content.
        add: called with the unfinished folder, to put more into it.

    Raises:
        PolicyError: the folder holds something already.
        OSError: the disk is full or read-only; nothing is left behind then.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PolicyError(f"{folder} exists and is not empty. Choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            (whole / name).write_bytes(content)
        add(whole)
        described = json.dumps({"mir2bench": mir2bench.__version__, **text}, indent=2)
        (whole / "policy.json").write_text(described + "\n", encoding="utf-8")
        whole.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return folder


def read_bundle(folder: str | Path) -> dict[str, Any]:
    """Return the content of a bundle's `policy.json`, its keys and types checked.

    Raises:
        PolicyError: no bundle, not JSON, a key missing or of the wrong type, or written by a newer version.
    """
    path = Path(folder) / "policy.json"
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"{folder} is not a policy bundle: cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"{path} is damaged: it is not valid JSON ({error}).") from error
    kinds = {
        "format": int,
        "variant": str,
        "algorithm": str,
        "config": dict,
        "seed": int,
        "n_agents": int,
        "noise": float,
        "architecture": dict,
    }
    if not isinstance(text, dict):
        raise PolicyError(f"{path} must hold a JSON object, but it holds a {type(text).__name__}.")
    graph = isinstance(text.get("architecture"), dict) and "onnx" in text["architecture"]
    kinds["onnx_sha256" if graph else "weights_sha256"] = str
    for key, kind in kinds.items():
        if key not in text:
            raise PolicyError(f"{path}: the key `{key}` is missing.")
        if not isinstance(text[key], kind) or isinstance(text[key], bool):
            raise PolicyError(f"{path}: `{key}` must be of type {kind.__name__}, but it is {text[key]!r}.")
    if text["format"] != FORMAT:
        raise PolicyError(f"{path} has format {text['format']}, but this version of mir2bench reads format {FORMAT}.")
    return text


def load_policy(folder: str | Path, variant: str | VariantSpec | None = None) -> Policy:
    """Load a bundle: `policy = load_policy(path)`, then `policy.act(obs, policy.initial_carry(len(obs)), rng=rng)`.

    Args:
        folder: the bundle.
        variant: what it is to play; None takes the bundle's own. Variants of one world that differ only in the number
            of adversaries share their policies.

    Raises:
        PolicyError: damaged, incomplete or altered files, or a bundle of another world.
        UnknownNameError: the bundle's variant is not registered here.
        MissingDependencyError: an ONNX bundle without onnx and onnxruntime.
    """
    folder = Path(folder)
    text = read_bundle(folder)
    own = spec(text["variant"])
    wanted = own if variant is None else spec(variant)
    if _world(own) != _world(wanted):
        raise PolicyError(f"{folder} holds a policy for {own.id}, which cannot play {wanted.id}.")
    if "onnx" in text["architecture"]:
        from mir2bench.onnx_policies import load_onnx_policy

        return load_onnx_policy(folder, text, own)
    return _load_network(folder, text, own, wanted)


def _load_network(folder: Path, text: Mapping[str, Any], own: VariantSpec, wanted: VariantSpec) -> Policy:
    import torch
    from safetensors.torch import load

    from mir2bench.learning.architectures import build
    from mir2bench.learning.networks import Critic, CriticShape
    from mir2bench.learning.policy import NetworkPolicy

    weights = _read_weights(folder, "weights", text)
    has_critic = "critic" in text["architecture"]
    critic_weights = _read_weights(folder, "critic", text) if has_critic else b""
    layout = own.layout
    critic = None
    try:
        actor = build(text["architecture"], own, text["n_agents"])
        with torch.random.fork_rng(devices=[]):  # new weights are drawn, though never used here
            if has_critic:
                sizes = CriticShape(**text["architecture"]["critic"])
                own_sizes = (layout.obs_dim, layout.action_dim, layout.state_dim)
                fits = (sizes.obs_dim, sizes.action_dim, sizes.state_dim) == own_sizes
                if not fits or sizes.knows_phi not in (0, own.n_agents) or not 1 <= sizes.hidden <= 4096:
                    raise ValueError(f"the critic's sizes do not fit {own.id}")
                critic = Critic(**text["architecture"]["critic"]).requires_grad_(False)
                critic.load_state_dict(load(critic_weights))
        actor.load_state_dict(load(weights))
        values = [*actor.parameters(), *(critic.parameters() if critic else ())]
        if not 0 <= text["noise"] < float("inf") or not all(bool(v.isfinite().all()) for v in values):
            raise ValueError("its weights or its noise are not finite")
    except Exception as error:  # safetensors and torch raise many kinds; each means that the bundle is unusable
        raise PolicyError(f"{folder} does not hold a policy of a known architecture: {error}") from error
    actor.requires_grad_(False)
    script = text.get("script", "")
    scripts = worst_behaviors(own)
    if script not in ("", *scripts):
        raise PolicyError(f"{folder} builds on the script {script!r}, which {own.family} does not have.")
    base = (script, build_scripted(scripts[script], own)) if script else None
    against: Any = load_policy(folder / ADVERSARY, wanted) if (folder / ADVERSARY).exists() else None
    return NetworkPolicy(actor, text["n_agents"], text["noise"], base, critic=critic, training_adversary=against)


def _read_weights(folder: Path, name: str, text: Mapping[str, Any]) -> bytes:
    """Return the content of one of a bundle's weight files, its size and hash checked."""
    path = folder / f"{name}.safetensors"
    try:
        if path.stat().st_size > _MAX_WEIGHTS:
            raise PolicyError(f"{path} is larger than {_MAX_WEIGHTS} bytes.")
        content = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{folder} is incomplete: cannot read {path}: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != text.get(f"{name}_sha256"):
        raise PolicyError(f"{path} was truncated or altered: its SHA-256 is not the one that policy.json names.")
    return content


def worst_behaviors(variant: VariantSpec) -> dict[str, str]:
    """Return name -> "module:Class" of what an adversary may do without learning: a family's scripts, and nothing.

    Doing nothing is among them only where a family has scripts; elsewhere learning begins from there anyway.
    """
    scripts = dict(variant.engine_class.scripted_traitors)
    return {"idle": "mir2bench.policies:IdlePolicy", **scripts} if scripts else {}


def build_scripted(target: str, variant: VariantSpec) -> Policy:
    """Build a policy that needs no training from its "module:Class", as an engine names it."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(variant.layout)


def _world(variant: VariantSpec) -> tuple[Any, ...]:
    """What two variants must share for one policy to play both."""
    return (variant.engine, tuple(sorted(variant.engine_args.items())), variant.n_agents, variant.version)
