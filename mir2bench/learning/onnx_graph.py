"""A trained actor as an ONNX graph, by the interface that `mir2bench.onnx_policies` describes."""

from __future__ import annotations

from typing import Any

from mir2bench.errors import MissingDependencyError, PolicyError
from mir2bench.learning.networks import Actor
from mir2bench.learning.policy import NetworkPolicy
from mir2bench.policies import Policy

OPSET, IR_VERSION = 17, 8
"""The oldest that know layer normalization, so that robots' older runtimes read it too."""


def actor_graph(policy: Policy) -> bytes:
    """Return the policy of one agent as an ONNX file's content; it knows which agent it is by the id it observes.

    Raises:
        PolicyError: no network, a network that is not one for all agents alike, or one that adds to a script.
        MissingDependencyError: onnx is not installed.
    """
    if not isinstance(policy, NetworkPolicy):
        raise PolicyError(f"only networks can be exported, but this policy is a {type(policy).__name__}.")
    if policy.script is not None:
        raise PolicyError(
            f"this policy adds its outputs to the actions of the script {policy.script[0]!r}, which is a program and "
            "not a part of its network, so it cannot be exported."
        )
    actor = policy.actor
    if not isinstance(actor, Actor):
        raise PolicyError(
            f"this policy is a {type(actor).__name__}: adversaries that differ or conspire. Only an actor that all "
            "agents share can be exported as the policy of one."
        )
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise MissingDependencyError(
            f'exporting needs the package `{error.name}`, which is not installed. Run: pip install "mir2bench[onnx]"'
        ) from error
    nodes: list[Any] = []

    def node(kind: str, inputs: list[str], outputs: list[str] | str, **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs, [outputs] if isinstance(outputs, str) else outputs, **attributes))

    def linear(x: str, weight: str, bias: str, out: str) -> None:
        node("Gemm", [x, weight, bias], out, transB=1)

    shape = actor.shape
    answer = "logits" if shape.discrete else "actions"
    inputs, outputs = [("obs", shape.obs_dim)], [(answer, shape.action_dim)]
    linear("obs", "inner.weight", "inner.bias", "inner")
    node("LayerNormalization", ["inner", "norm.weight", "norm.bias"], "normal", axis=-1, epsilon=actor.norm.eps)
    node("Relu", ["normal"], "first")
    if shape.recurrent:
        inputs.append(("carry", shape.hidden))
        outputs.append(("next_carry", shape.hidden))
        linear("first", "outer.weight_ih", "outer.bias_ih", "of_x")
        linear("carry", "outer.weight_hh", "outer.bias_hh", "of_h")
        for name in "xh":
            node("Split", [f"of_{name}"], [f"{gate}_{name}" for gate in "rzn"], axis=1)
        for gate in "rz":
            node("Add", [f"{gate}_x", f"{gate}_h"], f"{gate}_sum")
            node("Sigmoid", [f"{gate}_sum"], gate)
        node("Mul", ["r", "n_h"], "n_gated")
        node("Add", ["n_x", "n_gated"], "n_sum")
        node("Tanh", ["n_sum"], "n")
        node("Sub", ["carry", "n"], "change")  # h' = n + z (h - n)
        node("Mul", ["z", "change"], "kept")
        node("Add", ["n", "kept"], "next_carry")
    else:
        linear("first", "outer.weight", "outer.bias", "second")
        node("Relu", ["second"], "features")
    linear("next_carry" if shape.recurrent else "features", "head.weight", "head.bias", "head")
    node("Identity" if shape.discrete else "Tanh", ["head"], answer)

    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in actor.state_dict().items()]
    floats = onnx.TensorProto.FLOAT
    ends = [[helper.make_tensor_value_info(n, floats, ["rows", k]) for n, k in side] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "policy_of_one_agent", *ends, initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()
