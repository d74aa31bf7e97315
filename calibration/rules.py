"""The reject rule, and the way from images to pixels, as plain ONNX nodes around a network.

`assemble` turns a bare classifier (``pixels`` to ``logits``) into the file of ``docs/file-format.md``: decoded images
go in, verdicts come out, and every runtime that reads ONNX applies the same rule. `stamping` adds the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from runtime.errors import ModelError, UsageError, one_line
from runtime.spec import Rule

OPSETS = range(18, 22)
"""Versions of the ``ai.onnx`` operators a file may use."""

_IR_VERSIONS = (8, 10)

_PREFIX = """
prefix (uint8[N,H,W,C] images) => (float[N,C,H,W] pixels)
<float rule_white = {255}>
{
  rule_planes = Transpose <perm = [0, 3, 1, 2]> (images)
  rule_levels = Cast <to = 1> (rule_planes)
  pixels = Div (rule_levels, rule_white)
}
"""

# ReduceL1 carries a NaN or an infinity of any element into its sum. ONNX Runtime's ReduceMax drops NaN, and Softmax
# hides -inf.
_FINITE = """
  rule_magnitude = ReduceL1 <keepdims = 0> ({logits}, rule_axis)
  rule_finite = Less (rule_magnitude, rule_largest)
"""

_COMMON = """
  rule_label = ArgMax <axis = 1, keepdims = 0> (logits)
  rule_softmax = Softmax <axis = 1> (logits)
  rule_top = ReduceMax <keepdims = 0> (rule_softmax, rule_axis)
"""

_VERDICT = """
  rule_checked_label = Where (rule_finite, rule_label, rule_no_label)
  labels = Cast <to = 6> (rule_checked_label)
  confidence = Where (rule_finite, {confidence}, rule_zero)
  rule_sure = GreaterOrEqual (confidence, threshold)
"""

_CONSTANTS = "int64[1] rule_axis = {1}, int64 rule_no_label = {-1}, float rule_zero = {0}"

_CONFIDENCE_RULE = f"""
rule (float[N,K] logits, float rule_largest, float threshold)
  => (int32[N] labels, bool[N] accepted, float[N] confidence)
<{_CONSTANTS}>
{{
  {_FINITE.format(logits="logits")}
  {_COMMON}
  {_VERDICT.format(confidence="rule_top")}
  accepted = And (rule_finite, rule_sure)
}}
"""

_PAIR_RULE = f"""
rule (float[N,K] logits, float[N,K] robust_logits, float rule_largest, float threshold, int64[K] classmap)
  => (int32[N] labels, bool[N] accepted, float[N] confidence)
<{_CONSTANTS}>
{{
  rule_both = Concat <axis = 1> (logits, robust_logits)
  {_FINITE.format(logits="rule_both")}
  {_COMMON}
  rule_partner = Gather (classmap, rule_label)
  rule_partner_column = Unsqueeze (rule_partner, rule_axis)
  rule_robust_softmax = Softmax <axis = 1> (robust_logits)
  rule_seconded = GatherND <batch_dims = 1> (rule_robust_softmax, rule_partner_column)
  rule_product = Mul (rule_top, rule_seconded)
  {_VERDICT.format(confidence="rule_product")}
  rule_robust_label = ArgMax <axis = 1, keepdims = 0> (robust_logits)
  rule_agrees = Equal (rule_robust_label, rule_partner)
  rule_passes = And (rule_agrees, rule_sure)
  accepted = And (rule_finite, rule_passes)
}}
"""


_DETECTOR_RULE = f"""
rule (float[N,K] logits, float[N,D] anomalies, float rule_largest, float threshold)
  => (int32[N] labels, bool[N] accepted, float[N] confidence)
<{_CONSTANTS}, float rule_limit = {{1}}>
{{
  rule_both = Concat <axis = 1> (logits, anomalies)
  {_FINITE.format(logits="rule_both")}
  {_COMMON}
  {_VERDICT.format(confidence="rule_top")}
  rule_worst = ReduceMax <keepdims = 0> (anomalies, rule_axis)
  rule_within = LessOrEqual (rule_worst, rule_limit)
  rule_passes = And (rule_within, rule_sure)
  accepted = And (rule_finite, rule_passes)
}}
"""

_RULES = {"pair": _PAIR_RULE, "confidence": _CONFIDENCE_RULE, "detector": _DETECTOR_RULE}
_READ = {"pair": {"logits", "robust_logits"}, "confidence": {"logits"}, "detector": {"logits", "anomalies"}}
"""The outputs of a network that each rule reads."""


def assemble(
    network: ModelProto,
    *,
    rule: Rule,
    classmap: Sequence[int] | None,
    threshold: float,
    input_shape: tuple[int, int, int],
) -> ModelProto:
    """Return `network` with image scaling before it and the reject rule behind it, checked in full.

    Args:
        network: Float32 input ``pixels`` ``(N, C, H, W)`` in [0, 1] with a symbolic batch axis; outputs ``logits``
            ``(N, K)``, under rule ``pair`` also ``robust_logits`` ``(N, K)``, under rule ``detector`` also
            ``anomalies`` ``(N, D)``, what each detector reads as a share of its limit, and where there is a gradient
            lock also ``unlocked_logits`` ``(N, K)``. The last two stay inside the file under these names.
        rule: ``pair`` (two heads and a Classmap), ``confidence`` (one head) or ``detector`` (one head and detectors,
            each of which rejects above its limit).
        classmap: M, ``(K,)``, labels with ``M[y] != y``; None under the other rules.
        threshold: Smallest confidence to accept, in [0, 1]; rounded to float32.
        input_shape: ``(H, W, C)`` of the images the file will take.

    Returns:
        A new model; `network` is left as it was. It has no metadata, doc strings or node metadata, its initializers are
        raw, its batch axis is ``N``.

    Raises:
        UsageError: The rule, Classmap, threshold or shape is not of that form.
        ModelError: `network` is not of that form, or ``onnx.checker`` refuses the result.

    Source: Wang et al. 2018 (arXiv 1803.05123), section 3.3.1; confidence = softmax(Z*)[y] * softmax(Z')[M[y]].
    """
    outputs = _check_network(network, rule)
    shapes = _infer_shapes(network, outputs, input_shape)
    classes = _width(shapes, outputs - {"anomalies"}, "logits")
    _check_rule(rule, classmap, threshold, classes)
    prefix = onnx.parser.parse_graph(_PREFIX)
    suffix = onnx.parser.parse_graph(_RULES[rule])
    _check_names(network.graph, prefix, suffix)

    height, width, channels = input_shape
    graph = GraphProto(name="guard")
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", height, width, channels]))
    graph.output.extend(_outputs(rule, classes))
    graph.value_info.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", channels, height, width]))
    if "unlocked_logits" in outputs:
        graph.value_info.append(helper.make_tensor_value_info("unlocked_logits", TensorProto.FLOAT, ["N", classes]))
    if rule == "detector":
        detectors = _width(shapes, {"anomalies"}, "anomalies")
        graph.value_info.append(helper.make_tensor_value_info("anomalies", TensorProto.FLOAT, ["N", detectors]))
    graph.node.extend([*prefix.node, *network.graph.node, *suffix.node])
    graph.initializer.extend(
        [
            *map(_raw, [*prefix.initializer, *network.graph.initializer, *suffix.initializer]),
            numpy_helper.from_array(np.asarray(np.finfo(np.float32).max), "rule_largest"),
            numpy_helper.from_array(np.asarray(threshold, dtype=np.float32), "threshold"),
        ]
    )
    if classmap is not None:
        graph.initializer.append(numpy_helper.from_array(np.asarray(classmap, dtype=np.int64), "classmap"))
    _strip(graph)
    return _checked(graph, network)


def _check_network(network: ModelProto, rule: Rule) -> set[str]:
    """Return the names of the network's outputs after checking them, its input and its operator set."""
    if rule not in _RULES:
        raise UsageError(f"expected rule {', '.join(map(repr, _RULES))}, got {rule!r}")
    fed = {value.name for value in network.graph.input} - {tensor.name for tensor in network.graph.initializer}
    if fed != {"pixels"}:
        raise ModelError(f"expected a network with the one input 'pixels', got {sorted(fed)}")
    outputs = {value.name for value in network.graph.output}
    needed = _READ[rule]
    if not needed <= outputs <= needed | {"unlocked_logits"}:
        raise ModelError(
            f"expected a network with the outputs {sorted(needed)} for rule {rule!r}, got {sorted(outputs)}"
        )
    opsets = {entry.domain: entry.version for entry in network.opset_import}
    if set(opsets) - {"", "ai.onnx"} or not any(version in OPSETS for version in opsets.values()):
        raise ModelError(f"expected operators of ai.onnx {OPSETS[0]} to {OPSETS[-1]} alone, got {opsets}")
    if network.functions:
        raise ModelError(f"expected a network without local functions, got {len(network.functions)}; inline them")
    external = [tensor.name for tensor in network.graph.initializer if uses_external_data(tensor)]
    if external:
        raise ModelError(f"expected a network without external data, got it in {external}; embed it")
    return outputs


def _infer_shapes(
    network: ModelProto, outputs: set[str], input_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every output, inferred for images of `input_shape`."""
    if len(input_shape) != 3 or any(size < 1 for size in input_shape):
        raise UsageError(f"expected an input shape (H, W, C) of positive numbers, got {input_shape}")
    height, width, channels = input_shape
    probe = ModelProto()
    probe.CopyFrom(network)
    del probe.graph.input[:], probe.graph.value_info[:]
    probe.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", channels, height, width]))
    for value in probe.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
    try:
        inferred = onnx.shape_inference.infer_shapes(probe, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"expected a network for images of {input_shape}, got: {one_line(error)}") from error
    shapes = {value.name: _dims(value) for value in inferred.graph.output}
    declared = {value.name: _dims(value) for value in network.graph.output}
    return {name: shapes[name] or declared[name] for name in outputs}


def _width(shapes: dict[str, tuple[int, ...]], names: set[str], what: str) -> int:
    """Return the one width of some outputs."""
    shape, *others = {shapes[name] for name in names}
    if others or len(shape) != 2 or shape[0] or not shape[1]:
        raise ModelError(f"expected {what} of one shape (N, K) with a symbolic batch axis N, got {shapes}")
    return shape[1]


def _dims(value: ValueInfoProto) -> tuple[int, ...]:
    """Return the sizes of a tensor's axes, 0 where one is symbolic or unknown."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)


def _check_rule(rule: Rule, classmap: Sequence[int] | None, threshold: float, classes: int) -> None:
    """Refuse a threshold or a Classmap that does not fit the rule."""
    if not 0 <= threshold <= 1:
        raise UsageError(f"expected a threshold in [0, 1], got {threshold}")
    if rule != "pair":
        if classmap is not None:
            raise UsageError(f"expected no Classmap under rule {rule!r}, got one; leave it out")
        return
    if classmap is None or len(classmap) != classes:
        got = "none" if classmap is None else len(classmap)
        raise UsageError(f"expected a Classmap of {classes} labels under rule 'pair', got {got}")
    for label, partner in enumerate(classmap):
        if not 0 <= partner < classes or partner == label:
            raise UsageError(f"expected a Classmap with another label in [0, {classes}), got {label} -> {partner}")


def _check_names(network: GraphProto, *added: GraphProto) -> None:
    """Refuse a network that uses one of the names the rule needs."""
    taken = {name for node in network.node for name in node.output} | {tensor.name for tensor in network.initializer}
    ours = {name for graph in added for node in graph.node for name in (*node.input, *node.output)}
    ours |= {"images", "rule_largest"}
    clash = taken & ours - {"logits", "robust_logits", "anomalies"}
    if clash:
        raise ModelError(
            f"expected a network that leaves the rule's tensor names free, got {sorted(clash)}; rename them"
        )


def _outputs(rule: Rule, classes: int) -> list[ValueInfoProto]:
    rows = [
        helper.make_tensor_value_info("labels", TensorProto.INT32, ["N"]),
        helper.make_tensor_value_info("accepted", TensorProto.BOOL, ["N"]),
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes]),
    ]
    if rule == "pair":
        rows.append(helper.make_tensor_value_info("robust_logits", TensorProto.FLOAT, ["N", classes]))
    return rows


def _raw(tensor: TensorProto) -> TensorProto:
    """Return the same initializer with its values in ``raw_data``."""
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)


def _strip(graph: GraphProto) -> None:
    """Remove what says nothing about the computation: exporters write source paths there."""
    for node in _nodes(graph.node):
        node.doc_string = ""
        del node.metadata_props[:]


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield every node, those of subgraphs too."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g.node)


def _checked(graph: GraphProto, network: ModelProto) -> ModelProto:
    """Return the finished model, refused if ``onnx.checker`` finds fault with it."""
    lowest, highest = _IR_VERSIONS
    opset = max(entry.version for entry in network.opset_import)
    model = helper.make_model(
        graph,
        producer_name="cmt",
        ir_version=min(max(network.ir_version, lowest), highest),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"expected a network that fits the rule, got: {one_line(error)}") from error
    return model
