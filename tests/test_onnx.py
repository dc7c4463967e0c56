"""ONNX policies: the same actions as torch's, and what is refused before a runtime sees it."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import mir2bench
from mir2bench.cli import run
from mir2bench.content import content_dir
from mir2bench.errors import MissingDependencyError, PolicyError
from mir2bench.export import main
from mir2bench.learning.architectures import SeparateActors, SeparateShape
from mir2bench.learning.networks import Actor, ActorShape
from mir2bench.learning.onnx_graph import actor_graph
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.onnx_policies import OnnxPolicy, check_graph, save_onnx_policy
from mir2bench.policies import load_policy, read_bundle, save_policy

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
ID = "mir2bench/Rendezvous5-adv1-v0"


def network(variant: Any, *, recurrent: bool = False, noise: float = 0.25) -> NetworkPolicy:
    layout = variant.layout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        actor = Actor(ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, 16, recurrent))
    return NetworkPolicy(actor.requires_grad_(False), variant.n_agents, noise)


def simple(change: Callable[[Any], None] = lambda model: None, *, nodes: list[Any] | None = None) -> bytes:
    """A graph that plays rendezvous with 5 robots: actions = obs @ weight."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.full((30, 2), 0.1, np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["obs", "weight"], ["actions"])] if nodes is None else nodes,
        "simple",
        [helper.make_tensor_value_info("obs", floats, ["rows", 30])],
        [helper.make_tensor_value_info("actions", floats, ["rows", 2])],
        initializer=[weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    change(model)
    return model.SerializeToString()


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, outputs, **attributes)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save_onnx_policy(simple(), tmp_path / "bundle", variant=ID, algorithm="mine", config={}, seed=4)


# --- the same as torch ---


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("world", ["continuous", "discrete"])
def test_a_graph_acts_as_the_network_does(world: str, recurrent: bool, tmp_path: Path, toy: list[str]) -> None:
    variant = mir2bench.spec(ID if world == "continuous" else toy[1])
    layout = variant.layout
    torch_policy = network(variant, recurrent=recurrent)
    folder = save_onnx_policy(
        actor_graph(torch_policy), tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0, noise=0.25
    )
    onnx_policy = load_policy(folder)
    rng = np.random.default_rng(0)
    carries = [policy.initial_carry(6) for policy in (torch_policy, onnx_policy)]
    assert (carries[1] is None) == (not recurrent)
    for step in range(8):
        obs = rng.normal(size=(6, variant.n_agents, layout.obs_dim)).astype(np.float32)
        mask = (rng.random((6, variant.n_agents, layout.action_dim)) < 0.6).astype(np.int8) if layout.discrete else None
        if mask is not None:
            mask[..., step % layout.action_dim] = 1
        acted = [
            policy.act(obs, carry, mask, rng=np.random.default_rng(step), deterministic=step % 2 == 0)
            for policy, carry in zip((torch_policy, onnx_policy), carries, strict=True)
        ]
        (one, first), (other, second) = acted
        assert one.dtype == other.dtype
        assert one.shape == other.shape == layout.action_shape(6)
        np.testing.assert_allclose(other, one, rtol=0, atol=0 if layout.discrete else 1e-6)
        if recurrent:
            assert first.shape == second.shape
            np.testing.assert_allclose(second, first, rtol=0, atol=1e-6)
        carries = [first, second]


def test_a_baseline_exported_plays_the_same_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = content_dir("baselines") / "mir2" / "Rendezvous10-adv1-v0" / "seed0"
    args = [str(source), "--onnx", str(tmp_path / "new" / "robot.onnx"), "--bundle", str(tmp_path / "bundle")]
    assert run(main, prog="export", args=args) == 0
    assert "obs (rows, 60), actions (rows, 2)" in capsys.readouterr().out
    policies, rng = [load_policy(folder) for folder in (source, tmp_path / "bundle")], np.random.default_rng(0)
    exact = copy.deepcopy(policies[0].actor).double()  # type: ignore[attr-defined]
    env = gymnasium.make("mir2bench/Rendezvous10-adv1-v0")
    obs, _ = env.reset(seed=1)
    rounding = difference = 0.0
    for _ in range(100):
        one, other = (policy.act(obs[None], None, rng=rng)[0][0] for policy in policies)
        true = exact(torch.from_numpy(obs).double())[0].numpy()
        rounding, difference = max(rounding, abs(one - true).max()), max(difference, abs(other - one).max())
        obs = env.step(one)[0]
    # Trained weights are large: float32 itself is off by some 3e-6 here, in torch as in ONNX.
    assert difference < min(2 * rounding, 1e-5)
    before, after = read_bundle(source), read_bundle(tmp_path / "bundle")
    assert all(before[key] == after[key] for key in ("variant", "algorithm", "config", "seed", "n_agents", "noise"))
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["policy.json", "policy.onnx"]
    assert run(main, prog="export", args=args) == 2
    assert "exists" in capsys.readouterr().err


def test_a_graph_without_a_name_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = str(content_dir("baselines") / "mir2" / "Rendezvous10-adv1-v0" / "seed0")
    assert run(main, prog="export", args=[source, "--onnx"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["Rendezvous10-adv1-v0-mir2-seed0.onnx"]
    assert run(main, prog="export", args=[source, "--onnx", "a.onnx", "b.onnx"]) == 2
    assert "--onnx takes one file, not 2" in capsys.readouterr().err
    assert run(main, prog="export", args=[source]) == 2
    assert "nothing to write: give --onnx" in capsys.readouterr().err


def test_masks_reach_graphs_that_ask_for_them(toy: list[str], tmp_path: Path) -> None:
    layout = mir2bench.spec(toy[1]).layout
    floats = onnx.TensorProto.FLOAT
    ends = [
        onnx.helper.make_tensor_value_info(n, floats, ["rows", s]) for n, s in (("obs", layout.obs_dim), ("mask", 3))
    ]
    out = onnx.helper.make_tensor_value_info("logits", floats, ["rows", 3])
    weight = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.float32), "weight")
    graph = onnx.helper.make_graph([node("Mul", ["mask", "weight"], ["logits"])], "g", ends, [out], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    policy = OnnxPolicy(model.SerializeToString(), layout, 3)
    obs, mask = np.zeros((2, 3, layout.obs_dim), np.float32), np.ones((2, 3, 3), np.int8)
    mask[0, 1, 2] = 0
    actions, _ = policy.act(obs, None, mask, rng=np.random.default_rng(0))
    assert actions.tolist() == [[2, 1, 2], [2, 2, 2]]


def test_wrapping_a_graph_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.onnx").write_bytes(simple())
    args = [str(tmp_path / "mine.onnx"), "--bundle", str(tmp_path / "b")]
    assert run(main, prog="export", args=args) == 2
    assert "add --env VARIANT" in capsys.readouterr().err
    assert run(main, prog="export", args=[*args, "--env", "Rendezvous5-adv1-v0", "--algorithm", "mine"]) == 0
    policy = load_policy(tmp_path / "b")
    obs = np.random.default_rng(0).normal(size=(2, 5, 30)).astype(np.float32)
    actions, carry = policy.act(obs, policy.initial_carry(2), rng=np.random.default_rng(0))
    np.testing.assert_allclose(actions[..., 0], np.clip(0.1 * obs.sum(axis=-1), -1, 1), atol=1e-6)
    assert carry is None
    again = pickle.loads(pickle.dumps(policy))
    assert np.array_equal(again.act(obs, None, rng=np.random.default_rng(0))[0], actions)


def test_what_cannot_be_exported() -> None:
    variant = mir2bench.spec(ID)
    scripted = network(variant)
    scripted.script = ("flee", scripted)
    with pytest.raises(PolicyError, match="adds its outputs to the actions of the script 'flee'"):
        actor_graph(scripted)
    with pytest.raises(PolicyError, match="SeparateActors"):
        actor_graph(NetworkPolicy(SeparateActors(SeparateShape(30, 2, False, 8, 2)), 2))


# --- refused ---


def with_opset(domain: str, version: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.opset_import.add(domain=domain, version=version)

    return change


def old(model: Any) -> None:
    model.opset_import[0].version = 9


def rename(model: Any) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "observation"


def fixed_rows(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10


def wrong_size(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 31


def doubles(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def outside(model: Any) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")


def not_finite(model: Any) -> None:
    model.graph.initializer[0].raw_data = np.full((30, 2), np.nan, np.float32).tobytes()


def damaged(model: Any) -> None:
    model.graph.initializer[0].raw_data = b"123"


def function(model: Any) -> None:
    model.functions.add(name="f", domain="own")


def loose_carry(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("carry", onnx.TensorProto.FLOAT, ["rows", 4]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_opset("com.microsoft", 1), "only the default one is allowed"),
        (old, "in versions 13 to"),
        (rename, r"inputs are \['observation'\]"),
        (fixed_rows, "named first axis"),
        (wrong_size, r"shape \(rows, \*\(31,\)\)"),
        (doubles, "must be float32"),
        (outside, "lies in another file"),
        (not_finite, "not finite"),
        (damaged, "damaged"),
        (function, "holds functions"),
        (loose_carry, "only one of"),
    ],
)
def test_a_graph_that_breaks_a_rule(change: Callable[[Any], None], message: str) -> None:
    layout = mir2bench.spec(ID).layout
    check_graph(simple(), layout)
    with pytest.raises(PolicyError, match=message):
        check_graph(simple(change), layout)


def shape_of(*numbers: int) -> Any:
    return node("Constant", [], ["shape"], value=onnx.numpy_helper.from_array(np.array(numbers, np.int64)))


@pytest.mark.parametrize("kind", ["Loop", "If", "Scan", "RandomNormal", "Einsum", "Dropout", "Own"])
def test_operators_that_are_not_allowed(kind: str) -> None:
    with pytest.raises(PolicyError, match=f"operator '{kind}' is not allowed"):
        check_graph(simple(nodes=[node(kind, ["obs"], ["actions"])]), mir2bench.spec(ID).layout)
    with pytest.raises(PolicyError, match="operator 'evil.MatMul'"):
        check_graph(simple(nodes=[node("MatMul", ["obs"], ["actions"], domain="evil")]), mir2bench.spec(ID).layout)


def test_a_subgraph_in_an_allowed_operator() -> None:
    inner = onnx.helper.make_graph([], "inner", [], [])
    with pytest.raises(PolicyError, match="attribute of kind GRAPH"):
        check_graph(
            simple(nodes=[node("MatMul", ["obs", "weight"], ["actions"], body=inner)]), mir2bench.spec(ID).layout
        )


def test_sizes_are_bounded_before_anything_runs() -> None:
    layout = mir2bench.spec(ID).layout
    end = [node("MatMul", ["obs", "weight"], ["actions"])]
    large = [shape_of(40_000, 40_000), node("ConstantOfShape", ["shape"], ["large"]), *end]
    with pytest.raises(PolicyError, match="'large' is too large: 1600000000"):
        check_graph(simple(nodes=large), layout)
    # Not known in advance: the size is computed from what is observed, also where the output's is declared.
    computed = [node("Cast", ["obs"], ["sizes"], to=onnx.TensorProto.INT64), shape_of(30)]
    computed += [node("Reshape", ["sizes", "shape"], ["flat"]), node("ConstantOfShape", ["flat"], ["actions"])]
    with pytest.raises(PolicyError, match="cannot be known in advance"):
        check_graph(simple(nodes=computed), layout)
    with pytest.raises(PolicyError, match="no valid ONNX graph"):
        check_graph(simple(nodes=[node("MatMul", ["nowhere", "weight"], ["actions"])]), layout)


def carrying(nodes: list[Any], **weights: np.ndarray) -> bytes:
    """A graph with a memory of one number."""

    def change(model: Any) -> None:
        floats, info = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
        model.graph.input.append(info("carry", floats, ["rows", 1]))
        model.graph.output.append(info("next_carry", floats, ["rows", 1]))
        model.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in weights.items())

    return simple(change, nodes=nodes)


def reads_the_batch() -> bytes:
    """Plays only where 4 rows come together."""
    nodes = [
        node("Shape", ["obs"], ["rows_here"], end=1),
        node("Constant", [], ["four"], value=onnx.numpy_helper.from_array(np.array([4], np.int64))),
        node("Equal", ["rows_here", "four"], ["equal"]),
        node("Cast", ["equal"], ["played"], to=onnx.TensorProto.FLOAT),
        node("MatMul", ["obs", "weight"], ["plan"]),
        node("Mul", ["plan", "played"], ["actions"]),
    ]
    return simple(nodes=nodes)


def mixes_late() -> bytes:
    """Acts on the mean of all rows, from its fourth step on."""
    nodes = [
        node("Add", ["carry", "one"], ["next_carry"]),
        node("Greater", ["carry", "two"], ["late"]),
        node("ReduceMean", ["obs"], ["mean"], axes=[0], keepdims=1),
        node("Where", ["late", "mean", "obs"], ["mixed"]),
        node("MatMul", ["mixed", "weight"], ["actions"]),
    ]
    return carrying(nodes, one=np.ones(1, np.float32), two=np.full(1, 2, np.float32))


@pytest.mark.parametrize("graph", [reads_the_batch, mixes_late])
def test_an_episode_cannot_see_those_beside_it(graph: Callable[[], bytes]) -> None:
    """Neither how many there are nor what they hold, at any step, also for graphs that look."""
    policy, rng = OnnxPolicy(graph(), mir2bench.spec(ID).layout, 5), np.random.default_rng(0)
    carry, alone = policy.initial_carry(4), [policy.initial_carry(1)] * 4
    for _ in range(6):
        obs = rng.normal(size=(4, 5, 30)).astype(np.float32)
        actions, carry = policy.act(obs, carry, rng=rng)
        for episode in range(4):
            expected, alone[episode] = policy.act(obs[episode : episode + 1], alone[episode], rng=rng)
            assert np.array_equal(actions[episode], expected[0])
            if carry is not None:
                assert np.array_equal(carry[episode], alone[episode][0])
        if carry is None:
            assert not actions.any()  # the other plays for real
        else:
            np.testing.assert_allclose(actions[..., 0], np.clip(0.1 * obs.sum(axis=-1), -1, 1), atol=1e-6)


def test_the_runtime_gets_one_agent_of_one_episode_at_a_time() -> None:
    policy = OnnxPolicy(simple(), mir2bench.spec(ID).layout, 5)
    session, seen = policy._session, []

    class Spy:
        def run_with_iobinding(self, binding: Any) -> None:
            seen.append(policy._given["obs"].copy())
            session.run_with_iobinding(binding)

    policy._session = Spy()
    obs = np.random.default_rng(0).normal(size=(3, 5, 30)).astype(np.float32)
    policy.act(obs, None, rng=np.random.default_rng(0))
    assert np.array_equal(np.stack(seen), obs.reshape(15, 1, 30))


def test_an_output_of_another_shape_than_declared() -> None:
    nodes = [node("MatMul", ["obs", "weight"], ["one"]), node("Concat", ["one", "one"], ["actions"], axis=0)]
    with pytest.raises(PolicyError, match=r"`actions` has shape \(2, 2\) for one row, but \(1, 2\) was declared"):
        check_graph(simple(nodes=nodes), mir2bench.spec(ID).layout)


def test_numbers_that_are_not_finite_and_wrong_shapes() -> None:
    nodes = [node("Exp", ["obs"], ["e"]), node("MatMul", ["e", "weight"], ["actions"])]
    policy = OnnxPolicy(simple(nodes=nodes), mir2bench.spec(ID).layout, 5)
    rng = np.random.default_rng(0)
    with pytest.raises(PolicyError, match="`actions` is not finite"):
        policy.act(np.full((1, 5, 30), 1e4, np.float32), None, rng=rng)
    with pytest.raises(PolicyError, match=r"shape \(1, 5, 31\)"):
        policy.act(np.zeros((1, 5, 31), np.float32), None, rng=rng)


def test_no_graph_at_all() -> None:
    with pytest.raises(PolicyError, match="cannot be parsed"):
        check_graph(b"\x80\x04 no graph", mir2bench.spec(ID).layout)


def test_tampered_and_incomplete_bundles(bundle: Path) -> None:
    graph = bundle / "policy.onnx"
    content = graph.read_bytes()
    assert load_policy(bundle).n_agents == 5  # type: ignore[attr-defined]
    graph.write_bytes(content + b"\x00")
    with pytest.raises(PolicyError, match="truncated or altered"):
        load_policy(bundle)
    graph.unlink()
    with pytest.raises(PolicyError, match="cannot read"):
        load_policy(bundle)
    graph.write_bytes(content)
    text = json.loads((bundle / "policy.json").read_text())
    for key, value, message in (
        ("onnx_sha256", None, "`onnx_sha256` is missing"),
        ("n_agents", 6, "plays 6 agents"),
        ("noise", float("nan"), "not finite"),
        ("variant", "mir2bench/Rendezvous10-adv1-v0", "shape"),
    ):
        changed = {k: v for k, v in {**text, key: value}.items() if v is not None}
        (bundle / "policy.json").write_text(json.dumps(changed))
        with pytest.raises(PolicyError, match=message):
            load_policy(bundle)


def test_a_missing_runtime_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingDependencyError, match=rf'`{name}`.*pip install "mir2bench\[onnx\]"'):
            load_policy(bundle)
    with pytest.raises(MissingDependencyError, match=r'pip install "mir2bench\[onnx\]"'):
        actor_graph(network(mir2bench.spec(ID)))


def test_torch_bundles_do_not_need_a_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    variant = mir2bench.spec(ID)
    save_policy(network(variant), tmp_path / "b", variant=variant, algorithm="x", config={}, seed=0)
    load_policy(tmp_path / "b")
