"""Policies as ONNX graphs: written in any framework, run on a robot, and safe to take from a stranger.

A bundle with `policy.onnx` in the place of weights holds one agent's policy, and it is run for one agent in one episode
at a time. So nothing that one agent sees can reach another, no episode can tell how many are played beside it, and a
team is decentralized whatever its graph computes. What a graph reads and returns, all of it float32 and by name; `rows`
is a first axis that has a name but is always 1 here:

    input  obs         (rows, O)       one agent's observations, its one-hot id at their end
    input  mask        (rows, A)       optional, discrete worlds only: 1 for each legal action, else 0
    input  carry       (rows, ...)     optional, what the agent remembers; zeros when an episode starts
    output actions     (rows, A)       continuous worlds; clipped to [-1, 1] here
    output logits      (rows, A)       discrete worlds; the best legal action is chosen here
    output next_carry  (rows, ...)     exactly where there is a carry, and of its shape

Before a runtime sees a graph it is checked: size, opset, known operators of the default domain only (no loops,
branches, functions, random numbers or files outside), finite weights, and sizes of all that it computes, which must be
known in advance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mir2bench.engines.base import Layout
from mir2bench.errors import MissingDependencyError, PolicyError
from mir2bench.policies import FORMAT, Carry, Policy, write_bundle
from mir2bench.registration import VariantSpec, spec

FILE = "policy.onnx"
MAX_BYTES = 64 * 2**20
MAX_NODES = 10_000
MAX_NUMBERS = 2**20  # in one tensor, for one row
MAX_WORK = 2**22  # numbers in all tensors, for one row
OPSETS = (13, 22)
"""Oldest and newest operator set that a graph may use."""

# Deterministic operators without subgraphs; everything else is refused.
OPERATORS = frozenset(
    """
    Abs Acos Add And ArgMax ArgMin Asin Atan Cast Ceil Celu Clip Concat Constant ConstantOfShape Cos CumSum Div
    Elu Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements Gelu Gemm Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LSTM LayerNormalization LeakyRelu
    Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow RNN Reciprocal
    ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Round Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tan
    Tanh ThresholdedRelu Tile Transpose Unsqueeze Where Xor
    """.split()  # noqa: SIM905
)
_INPUTS, _OUTPUTS = ("obs", "mask", "carry"), ("actions", "logits", "next_carry")
_TYPES = ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL")


class OnnxPolicy:
    """A checked ONNX graph as a `Policy`; one processor thread, the same numbers in every run.

    Args:
        content: the graph's file.
        layout: the world it is to play.
        n_agents: n, the agents it plays: N for a team, K for the adversaries of a partition.
        noise: standard deviation of the Gaussian that non-deterministic continuous actions add.

    Raises:
        PolicyError: the graph breaks a rule of this module; the message says which.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """

    def __init__(self, content: bytes, layout: Layout, n_agents: int, noise: float = 0.0) -> None:
        self.n_agents = n_agents
        self.noise = noise
        self._content = content
        self._layout = layout
        self.interface = check_graph(content, layout)
        self._session = _start(content)
        # The runtime reads one row from these arrays and writes its answers to those, always the same.
        self._given = {k: np.zeros((1, *self.interface[k]), np.float32) for k in _INPUTS if k in self.interface}
        self._answered = {k: np.zeros((1, *self.interface[k]), np.float32) for k in _OUTPUTS if k in self.interface}
        self._binding = self._session.io_binding()
        for name, array in self._given.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in self._answered.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and send it as its file: the runtime's session can do neither."""
        return OnnxPolicy, (self._content, self._layout, self.n_agents, self.noise)

    def initial_carry(self, batch: int) -> Carry:
        """Return the empty memory, zeros (B, n, ...) float32; None for graphs without a carry."""
        if "carry" not in self.interface:
            return None
        return np.zeros((batch, self.n_agents, *self.interface["carry"]), np.float32)

    def act(
        self,
        obs: np.ndarray,
        carry: Carry,
        mask: np.ndarray | None = None,
        *,
        rng: np.random.Generator,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Carry]:
        """See `Policy.act`. Samples of discrete actions follow softmax(logits) over the legal actions.

        Raises:
            PolicyError: observations of another shape, or the graph returned numbers that are not finite.
        """
        if obs.ndim != 3 or obs.shape[-1] != self._layout.obs_dim:
            raise PolicyError(
                f"this policy reads observations of shape (worlds, agents, {self._layout.obs_dim}), but they have "
                f"shape {obs.shape}. Was it made for another variant?"
            )
        legal = np.ones((*obs.shape[:2], self._layout.action_dim), np.float32) if mask is None else np.asarray(mask)
        answers = self._run({"obs": obs, "mask": legal, "carry": carry})
        out, carry = answers[0], answers[1] if "carry" in self.interface else None
        if self._layout.discrete:
            if not deterministic:
                out = out + rng.gumbel(size=out.shape)
            return np.where(legal > 0, out, -np.inf).argmax(axis=-1), carry
        if not deterministic:
            out = out + self.noise * rng.standard_normal(out.shape, dtype=np.float32)
        return np.clip(out, -1.0, 1.0), carry

    def _run(self, given: Mapping[str, Any]) -> list[np.ndarray]:
        """Run the graph on each agent of each episode alone; return its outputs, (B, n, ...) float32 each."""
        batch, agents = given["obs"].shape[:2]
        rows = [
            (array, np.ascontiguousarray(given[name], np.float32).reshape(batch * agents, *array.shape[1:]))
            for name, array in self._given.items()
        ]
        answers = [
            (array, np.empty((batch * agents, *array.shape[1:]), np.float32)) for array in self._answered.values()
        ]
        run, binding = self._session.run_with_iobinding, self._binding
        try:
            for row in range(batch * agents):
                for array, source in rows:
                    array[0] = source[row]
                run(binding)
                for array, target in answers:
                    target[row] = array[0]
        except Exception as error:  # the runtime has errors of its own, without a common base
            raise PolicyError(f"the ONNX graph failed: {' '.join(str(error).split())[:300]}") from error
        for name, (_, found) in zip(self._answered, answers, strict=True):
            if not np.isfinite(found).all():
                raise PolicyError(f"the ONNX graph's `{name}` is not finite.")
        return [found.reshape(batch, agents, *found.shape[1:]) for _, found in answers]


def check_graph(content: bytes, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Check a graph without running it, and return its inputs and outputs: name -> shape behind the rows.

    Raises:
        PolicyError: it breaks a rule of this module.
        MissingDependencyError: onnx is not installed.
    """
    onnx = _package("onnx")
    if len(content) > MAX_BYTES:
        raise PolicyError(f"the ONNX graph has {len(content)} bytes, more than {MAX_BYTES}.")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own errors
        raise PolicyError("it is no ONNX graph: the file cannot be parsed.") from error
    _check_parts(onnx, model)
    interface = _interface(onnx, model.graph, layout)
    try:
        onnx.checker.check_model(model)
        sizes = _sizes(onnx, model, interface)
    except PolicyError:
        raise
    except Exception as error:  # the checker has errors of its own, without a common base
        raise PolicyError(f"it is no valid ONNX graph: {' '.join(str(error).split())[:300]}") from error
    for name, size in sizes.items():
        if size > MAX_NUMBERS:
            raise PolicyError(f"the ONNX graph's tensor {name!r} is too large: {size} numbers.")
    if sum(sizes.values()) > MAX_WORK:
        raise PolicyError(f"the ONNX graph computes {sum(sizes.values())} numbers, more than {MAX_WORK}.")
    return interface


def _check_parts(onnx: Any, model: Any) -> None:
    """Refuse whatever is not a plain graph of known operators with finite weights inside the file."""
    opsets = [(o.domain, o.version) for o in model.opset_import]
    if len(opsets) != 1 or opsets[0][0] not in ("", "ai.onnx") or not OPSETS[0] <= opsets[0][1] <= OPSETS[1]:
        raise PolicyError(
            f"the ONNX graph uses operator sets {opsets}, but only the default one is allowed, in versions "
            f"{OPSETS[0]} to {OPSETS[1]}. Export it with opset 17."
        )
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise PolicyError("the ONNX graph holds functions, training steps or sparse weights; inline or remove them.")
    if len(graph.node) > MAX_NODES:
        raise PolicyError(f"the ONNX graph has {len(graph.node)} nodes, more than {MAX_NODES}.")
    tensors = list(graph.initializer)
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            name = ".".join(filter(None, (node.domain, node.op_type)))
            raise PolicyError(f"the ONNX operator {name!r} is not allowed. There are: {', '.join(sorted(OPERATORS))}.")
        for attribute in node.attribute:
            kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
            if kind not in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS"):
                raise PolicyError(f"the ONNX node {node.name!r} has an attribute of kind {kind}, which is not allowed.")
            tensors += [attribute.t] if kind == "TENSOR" else []
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise PolicyError(f"the ONNX tensor {tensor.name!r} lies in another file; save all of it in one.")
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        if kind not in _TYPES or any(d < 0 for d in tensor.dims) or np.prod(tensor.dims, dtype=float) > MAX_BYTES:
            raise PolicyError(f"the ONNX tensor {tensor.name!r} is of type {kind} and sizes {list(tensor.dims)}.")
        try:
            finite = np.isfinite(onnx.numpy_helper.to_array(tensor)).all()
        except Exception as error:
            raise PolicyError(f"the ONNX tensor {tensor.name!r} is damaged.") from error
        if not finite:
            raise PolicyError(f"the ONNX tensor {tensor.name!r} is not finite.")


def _interface(onnx: Any, graph: Any, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return name -> shape behind the rows of inputs and outputs, or raise `PolicyError`."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    answer = "logits" if layout.discrete else "actions"
    allowed = (["obs", "mask", "carry"] if layout.discrete else ["obs", "carry"], [answer, "next_carry"])
    found: dict[str, tuple[int, ...]] = {}
    for what, values, names in (("inputs", inputs, allowed[0]), ("outputs", graph.output, allowed[1])):
        given = [value.name for value in values]
        if names[0] not in given or len(set(given)) < len(given) or set(given) - set(names):
            raise PolicyError(f"the ONNX graph's {what} are {given}, but here they are {names}, the first always.")
        for value in values:
            tensor = value.type.tensor_type
            dims = list(tensor.shape.dim)
            shape = tuple(d.dim_value for d in dims[1:])
            if tensor.elem_type != onnx.TensorProto.FLOAT or not dims or not dims[0].dim_param or 0 in shape:
                raise PolicyError(
                    f"the ONNX graph's `{value.name}` must be float32 with a named first axis (the rows) and fixed "
                    f"others, but it is {onnx.helper.printable_value_info(value)}."
                )
            found[value.name] = shape
    sizes: dict[str, tuple[int, ...]] = {"obs": (layout.obs_dim,), "next_carry": found.get("carry", ())}
    sizes |= dict.fromkeys(("mask", answer), (layout.action_dim,))
    for name, shape in found.items():
        if name != "carry" and shape != sizes[name]:
            raise PolicyError(f"the ONNX graph's `{name}` has shape (rows, *{shape}), not (rows, *{sizes[name]}).")
    if ("carry" in found) != ("next_carry" in found):
        raise PolicyError("the ONNX graph has only one of `carry` and `next_carry`.")
    return found


def _sizes(onnx: Any, model: Any, interface: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return how many numbers each computed tensor holds for one row, or raise `PolicyError`."""
    fixed = type(model)()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # what is declared there is the author's word
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in fixed.graph.input:
        if value.type.tensor_type.shape.dim and value.type.tensor_type.shape.dim[0].dim_param:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True).graph
    known = {value.name: value.type.tensor_type.shape.dim for value in [*graph.value_info, *graph.output]}
    sizes: dict[str, int] = {}
    for node in graph.node:
        for name in filter(None, node.output):
            if name not in known or not all(d.HasField("dim_value") for d in known[name]):
                raise PolicyError(
                    f"the size of the ONNX tensor {name!r} ({node.op_type}) cannot be known in advance. Export the "
                    "graph with fixed sizes except for the rows, or simplify it."
                )
            shape = tuple(dim.dim_value for dim in known[name])
            declared = (1, *interface.get(name, shape[1:]))
            if shape != declared and name in interface:
                raise PolicyError(
                    f"the ONNX graph's `{name}` has shape {shape} for one row, but {declared} was declared."
                )
            sizes[name] = math.prod(shape)
    return sizes


def _start(content: bytes) -> Any:
    """Start a session: one thread, on the processor, from memory, for one row."""
    inputs = _package("onnx").load_model_from_string(content).graph.input
    rows = {value.type.tensor_type.shape.dim[0].dim_param for value in inputs} - {""}
    ort = _package("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    for name in rows:
        options.add_free_dimension_override_by_name(name, 1)
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has errors of its own, without a common base
        raise PolicyError(f"onnxruntime refuses the graph: {' '.join(str(error).split())[:300]}") from error


def _package(name: Literal["onnx", "onnxruntime"]) -> Any:
    try:
        if name == "onnxruntime":
            import onnxruntime

            return onnxruntime
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
        import onnx.shape_inference

        return onnx
    except ImportError as error:
        raise MissingDependencyError(
            f'ONNX policies need the package `{name}`, which is not installed. Run: pip install "mir2bench[onnx]"'
        ) from error


def save_onnx_policy(
    graph: bytes | str | Path,
    folder: str | Path,
    *,
    variant: str | VariantSpec,
    algorithm: str,
    config: Mapping[str, Any],
    seed: int,
    n_agents: int | None = None,
    noise: float = 0.0,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle around an ONNX graph of any origin; it appears whole or not at all.

    Args:
        graph: the graph, or the file that holds it.
        folder: where; it must not exist yet, or be empty.
        variant: what it plays.
        algorithm: how it was trained, a name.
        config: with which settings, as JSON data.
        seed: its training seed.
        n_agents: how many agents it plays; None for a whole team.
        noise: see `OnnxPolicy`.
        extra: further facts for `policy.json`, as JSON data.

    Returns:
        The folder.

    Raises:
        PolicyError: the graph breaks a rule of this module, or the folder holds something already.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    content = graph if isinstance(graph, bytes) else read_graph(Path(graph))
    variant = spec(variant)
    agents = variant.n_agents if n_agents is None else n_agents
    policy = OnnxPolicy(content, variant.layout, agents, noise)
    text = {
        "format": FORMAT,
        "variant": variant.id,
        "algorithm": algorithm,
        "config": dict(config),
        "seed": seed,
        "n_agents": agents,
        "noise": float(noise),
        "architecture": {"onnx": {name: list(shape) for name, shape in policy.interface.items()}},
        "onnx_sha256": hashlib.sha256(content).hexdigest(),
        **(extra or {}),
    }
    return write_bundle(folder, text, {FILE: content})


def read_graph(path: Path) -> bytes:
    """Return the content of an ONNX file, or raise `PolicyError`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PolicyError(f"{path} is larger than {MAX_BYTES} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise PolicyError(f"cannot read {path}: {error.strerror}.") from error


def load_onnx_policy(folder: Path, text: Mapping[str, Any], variant: VariantSpec) -> Policy:
    """Load the graph of a bundle whose `policy.json` has been read; see `policies.load_policy`."""
    content = read_graph(folder / FILE)
    if hashlib.sha256(content).hexdigest() != text.get("onnx_sha256"):
        raise PolicyError(
            f"{folder / FILE} was truncated or altered: its SHA-256 is not the one that policy.json names."
        )
    if not 1 <= text["n_agents"] <= variant.n_agents:
        raise PolicyError(f"{folder} plays {text['n_agents']} agents, but {variant.id} has {variant.n_agents}.")
    if not 0 <= text["noise"] < float("inf"):
        raise PolicyError(f"{folder}: its noise is not finite.")
    try:
        return OnnxPolicy(content, variant.layout, text["n_agents"], text["noise"])
    except PolicyError as error:
        raise PolicyError(f"{folder}: {error}") from error
