"""Files an attacker might write, with a digest that is right: each is refused for the reason it deserves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from runtime import Guard
from runtime.errors import ModelError
from tests.runtime import guard_files as files
from tests.runtime import onnx_bytes as onnx
from tests.runtime.guard_files import Recipe, build, restamp, stamp

RECIPE = Recipe()
DOCUMENT = files.document(RECIPE, "")
LARGE = 2**40


def assemble(
    *,
    nodes: Iterable[bytes] | None = None,
    initializers: dict[str, np.ndarray | bytes] | None = None,
    inputs: Iterable[bytes] | None = None,
    outputs: Iterable[bytes] | None = None,
    in_graph: bytes = b"",
    in_model: bytes = b"",
    ir_version: int = 10,
    opsets: Iterable[bytes] = (onnx.opset(),),
) -> bytes:
    """An honest file with some of its parts replaced; the digest is right."""
    graph = onnx.graph(
        files.nodes(RECIPE) if nodes is None else nodes,
        files.initializers(RECIPE) | (initializers or {}),
        files.inputs(RECIPE) if inputs is None else inputs,
        files.outputs(RECIPE) if outputs is None else outputs,
        in_graph,
    )
    return stamp(onnx.model(graph, ir_version=ir_version, opsets=opsets, extra=in_model), DOCUMENT)


def external(location: str) -> bytes:
    """A weight that claims to lie in another file."""
    entries = onnx.field(13, onnx.entry("location", location))
    return onnx.fields(1, (30, 4)) + onnx.field(2, onnx.FLOAT) + onnx.field(8, "w") + entries + onnx.field(14, 1)


def sequence(name: str, kind: int) -> bytes:
    """A value that is declared as a tensor and, which counts for protobuf, after that as a sequence of them."""
    tensor = onnx.field(1, onnx.field(1, kind) + onnx.field(2, onnx.field(1, onnx.field(2, "N"))))
    return onnx.field(1, name) + onnx.field(2, tensor + onnx.field(4, onnx.field(1, tensor)))


def in_node(attribute: bytes, operator: str = "Constant", name: str = "spare") -> bytes:
    """The graph with one more node, which carries `attribute`."""
    node = onnx.fields(2, [name]) + onnx.field(4, operator) + onnx.field(5, attribute)
    return assemble(nodes=[*files.nodes(RECIPE), node])


def unread(name: str) -> bytes:
    """The graph with the same numbers under another name, which its nodes read instead."""
    initializers = files.initializers(RECIPE)
    nodes = [node.replace(onnx.field(1, name), onnx.field(1, "x" * len(name))) for node in files.nodes(RECIPE)]
    return assemble(nodes=nodes, initializers={"x" * len(name): initializers[name]})


def tensor_attribute(tensor: bytes, number: int = 5) -> bytes:
    return onnx.field(1, "value") + onnx.field(number, tensor) + onnx.field(20, 4)


def subgraph(graph: bytes) -> bytes:
    return onnx.field(1, "then_branch") + onnx.field(6, graph) + onnx.field(20, 5)


def deep(levels: int) -> bytes:
    graph = onnx.graph([], {}, [], [])
    for _ in range(levels):
        graph = onnx.field(1, onnx.field(4, "If") + onnx.field(5, subgraph(graph)))
    return graph


def without(name: str) -> bytes:
    kept = {key: value for key, value in files.initializers(RECIPE).items() if key != name}
    graph = onnx.graph(files.nodes(RECIPE), kept, files.inputs(RECIPE), files.outputs(RECIPE))
    return stamp(onnx.model(graph), DOCUMENT)


def raw(name: str, dims: Iterable[int], kind: int, data: bytes) -> bytes:
    return onnx.fields(1, dims) + onnx.field(2, kind) + onnx.field(8, name) + onnx.field(9, data)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "external absolute": (lambda: assemble(initializers={"w": external("/etc/passwd")}), "got external data"),
    "external parent": (lambda: assemble(initializers={"w": external("../secret")}), "got external data"),
    "external beside": (lambda: assemble(initializers={"w": external("weights.bin")}), "got external data"),
    "external without location": (
        lambda: assemble(initializers={"w": onnx.tensor("w", np.zeros((30, 4), np.float32), onnx.field(14, 1))}),
        "got external data",
    ),
    "external beyond 32 bits": (
        lambda: assemble(initializers={"w": onnx.tensor("w", np.zeros((1,), np.float32), onnx.field(14, 2**32 + 1))}),
        "got external data",
    ),
    "external entries alone": (
        lambda: assemble(initializers={"w": onnx.tensor("w", np.zeros((1,), np.float32), onnx.field(13, b""))}),
        "got external data",
    ),
    "external in attribute": (lambda: in_node(tensor_attribute(external("x"))), "got external data"),
    "external in attribute list": (lambda: in_node(tensor_attribute(external("x"), 10)), "got external data"),
    "external in sparse attribute": (
        lambda: in_node(tensor_attribute(onnx.field(1, external("x")), 22)),
        "got external data",
    ),
    "external in sparse attributes": (
        lambda: in_node(tensor_attribute(onnx.field(2, external("x")), 23)),
        "got external data",
    ),
    "external in sparse initializer": (
        lambda: assemble(in_graph=onnx.field(15, onnx.field(2, external("x")))),
        "got external data",
    ),
    "sparse initializer": (
        lambda: assemble(in_graph=onnx.field(15, b"")),
        "expected dense initializers, got a sparse one",
    ),
    "threshold that nothing reads": (
        lambda: unread("threshold"),
        "threshold: expected a node that reads it, got none",
    ),
    "classmap that nothing reads": (lambda: unread("classmap"), "classmap: expected a node that reads it, got none"),
    "chance": (
        lambda: in_node(tensor_attribute(b""), "RandomUniformLike"),
        "node RandomUniformLike: expected an answer that is always the same",
    ),
    "loop": (
        lambda: in_node(subgraph(onnx.graph([], {}, [], [])), "Loop"),
        "node Loop: expected an answer that is always the same",
    ),
    "chance in subgraph": (
        lambda: in_node(subgraph(onnx.graph([onnx.node("Bernoulli", "x", "y")], {}, [], [])), "If"),
        "node Bernoulli: expected an answer",
    ),
    "dropout in training": (
        lambda: assemble(nodes=[*files.nodes(RECIPE), onnx.node("Dropout", "logits threshold accepted", "d")]),
        "node Dropout: expected an answer",
    ),
    "external in subgraph": (
        lambda: in_node(subgraph(onnx.graph([], {"x": external("x")}, [], [])), "If"),
        "got external data",
    ),
    "external in subgraph list": (
        lambda: in_node(onnx.field(1, "g") + onnx.field(11, onnx.graph([], {"x": external("x")}, [], [])), "If"),
        "got external data",
    ),
    "tensor in segments": (
        lambda: assemble(initializers={"w": onnx.tensor("w", np.zeros(1, np.float32), onnx.field(3, b""))}),
        "TensorProto: expected fields of ONNX",
    ),
    "local function": (lambda: assemble(in_model=onnx.field(25, b"")), "expected no local functions"),
    "training info": (lambda: assemble(in_model=onnx.field(20, b"")), "expected no training info"),
    "field of a later version": (lambda: assemble(in_model=onnx.field(26, b"")), "expected fields of ONNX"),
    "second graph": (lambda: assemble(in_model=onnx.field(7, b"")), "expected field 7 once"),
    "custom operator": (
        lambda: assemble(nodes=[onnx.node("Evil", "images", "labels", domain="com.example")]),
        "node Evil: expected an ai.onnx operator, got one of com.example",
    ),
    "custom operator in subgraph": (
        lambda: in_node(subgraph(onnx.graph([onnx.node("Evil", "", "x", domain="ai.onnx.ml")], {}, [], [])), "If"),
        "node Evil: expected an ai.onnx operator, got one of ai.onnx.ml",
    ),
    "second operator set": (
        lambda: assemble(opsets=[onnx.opset(), onnx.opset(1, "com.microsoft")]),
        "expected the one operator set ai.onnx 18 to 21, got ai.onnx 18, com.microsoft 1",
    ),
    "no operator set": (lambda: assemble(opsets=[]), "expected the one operator set ai.onnx 18 to 21, got none"),
    "old operator set": (lambda: assemble(opsets=[onnx.opset(17)]), "got ai.onnx 17"),
    "later operator set": (lambda: assemble(opsets=[onnx.opset(22)]), "got ai.onnx 22"),
    "IR version 11": (lambda: assemble(ir_version=11), "expected IR version 8 to 10, got 11"),
    "IR version 7": (lambda: assemble(ir_version=7), "expected IR version 8 to 10, got 7"),
    "IR version beyond 64 bits": (lambda: assemble(ir_version=2**64 - 1), "expected IR version 8 to 10"),
    "deep subgraphs": (lambda: in_node(subgraph(deep(9)), "If"), "expected at most 16 nested messages"),
    "huge dimensions": (
        lambda: assemble(initializers={"w": raw("w", (LARGE, LARGE), onnx.FLOAT, bytes(4))}),
        "tensor 'w': expected .* bytes for its shape, got 4",
    ),
    "many operator sets": (lambda: assemble(opsets=[onnx.opset()] * 10**5), "got ai.onnx 18(, ai.onnx 18){3}; export"),
    "tensor that is a sequence": (
        lambda: assemble(outputs=[sequence("labels", onnx.INT32), *files.outputs(RECIPE)[1:]]),
        "TypeProto: expected fields of ONNX IR version 10, got field 4",
    ),
    "many dimensions": (
        lambda: assemble(initializers={"w": raw("w", (2,) * 65, onnx.FLOAT, bytes(4))}),
        "tensor: expected at most 64 dimensions",
    ),
    "many dimensions, packed": (
        lambda: assemble(
            initializers={"w": onnx.field(1, b"\x02" * 10**6) + onnx.field(2, onnx.FLOAT) + onnx.field(9, b"")}
        ),
        "tensor: expected at most 64 dimensions",
    ),
    "negative dimension": (
        lambda: assemble(initializers={"w": raw("w", (-1,), onnx.FLOAT, bytes(4))}),
        "tensor 'w': expected .* bytes for its shape",
    ),
    "short weights": (
        lambda: assemble(initializers={"w": raw("w", (30, 4), onnx.FLOAT, bytes(8))}),
        "tensor 'w': expected 480 bytes for its shape, got 8",
    ),
    "repeated initializer": (
        lambda: assemble(in_graph=onnx.field(5, onnx.tensor("threshold", np.zeros((), np.float32)))),
        "expected initializers with distinct names",
    ),
    "threshold as vector": (
        lambda: assemble(initializers={"threshold": onnx.tensor("threshold", np.zeros(1, np.float32))}),
        "threshold: expected a float32 scalar",
    ),
    "classmap missing": (lambda: without("classmap"), "classmap: expected .* got None in the graph"),
    "classmap short": (
        lambda: assemble(initializers={"classmap": np.array([1, 0, 3], np.int64)}),
        "classmap: expected .* as in the metadata",
    ),
    "classmap as int32": (
        lambda: assemble(initializers={"classmap": np.array([1, 0, 3, 2], np.int32)}),
        "classmap: expected int64",
    ),
    "classmap as matrix": (
        lambda: assemble(initializers={"classmap": np.array([[1, 0], [3, 2]], np.int64)}),
        "classmap: expected int64",
    ),
    "input missing": (lambda: assemble(inputs=[]), r"expected the inputs \['images'\], got \[\]"),
    "input more": (
        lambda: assemble(inputs=[*files.inputs(RECIPE), onnx.value_info("threshold", onnx.FLOAT, [])]),
        "expected the inputs",
    ),
    "input twice": (lambda: assemble(inputs=files.inputs(RECIPE) * 2), "expected one tensor with type and shape"),
    "input as float": (
        lambda: assemble(inputs=[onnx.value_info("images", onnx.FLOAT, ["N", 6, 5, 1])]),
        r"input images: expected uint8 \(N, 6, 5, 1\), got float32 \(N, 6, 5, 1\)",
    ),
    "input of another size": (
        lambda: assemble(inputs=[onnx.value_info("images", onnx.UINT8, ["N", 6, 6, 1])]),
        r"input images: expected uint8 \(N, 6, 5, 1\), got uint8 \(N, 6, 6, 1\)",
    ),
    "input of fixed batch": (
        lambda: assemble(inputs=[onnx.value_info("images", onnx.UINT8, [1, 6, 5, 1])]),
        r"got uint8 \(1, 6, 5, 1\)",
    ),
    "input of both dimensions": (
        lambda: assemble(
            inputs=[
                onnx.field(1, "images")
                + onnx.field(
                    2,
                    onnx.field(
                        1, onnx.field(1, 2) + onnx.field(2, onnx.field(1, onnx.field(1, 1) + onnx.field(2, "N")))
                    ),
                )
            ]
        ),
        "expected a number or a symbol as dimension, got both",
    ),
    "output missing": (lambda: assemble(outputs=files.outputs(RECIPE)[1:]), "expected the outputs"),
    "output more": (
        lambda: assemble(outputs=[*files.outputs(RECIPE), onnx.value_info("pixels", onnx.FLOAT, ["N", 1, 6, 5])]),
        "expected the outputs",
    ),
    "output without type": (
        lambda: assemble(outputs=[onnx.field(1, "labels"), *files.outputs(RECIPE)[1:]]),
        "'labels': expected one tensor with type and shape",
    ),
    "logits of another width": (
        lambda: assemble(outputs=[*files.outputs(RECIPE)[:3], onnx.value_info("logits", onnx.FLOAT, ["N", 5])]),
        "expected the outputs",
    ),
    "labels as int64": (
        lambda: assemble(outputs=[onnx.value_info("labels", onnx.INT64, ["N"]), *files.outputs(RECIPE)[1:]]),
        r"output labels: expected int32 \(N\), got int64 \(N\)",
    ),
    "metadata missing": (lambda: files.unstamped(RECIPE), "expected the one entry cmt.guard, got no entry"),
    "metadata twice": (
        lambda: build() + build()[len(files.unstamped(RECIPE)) :],
        "expected the one entry cmt.guard, got 'cmt.guard', 'cmt.guard'",
    ),
    "other metadata beside": (
        lambda: build() + onnx.field(14, onnx.entry("author", "me")),
        "expected the one entry cmt.guard, got 'cmt.guard', 'author'",
    ),
    "metadata without value": (
        lambda: files.unstamped(RECIPE) + onnx.field(14, onnx.field(1, "cmt.guard")),
        "expected the one entry cmt.guard",
    ),
    "metadata not ASCII": (
        lambda: files.unstamped(RECIPE) + onnx.field(14, onnx.entry("cmt.guard", "é")),
        "expected ASCII text",
    ),
    "graph missing": (lambda: onnx.field(1, 10) + onnx.field(8, onnx.opset()), "expected a graph, got none"),
    "ORT format": (lambda: b"\x08\x00\x00\x00ORTM" + bytes(64), "model file: expected"),
    "text": (lambda: b"hello world, this is no model", "model file: expected|ModelProto: expected"),
    "zip": (lambda: b"PK\x03\x04" + bytes(100), "model file: expected|ModelProto: expected"),
    "unknown operator": (
        lambda: assemble(nodes=[*files.nodes(RECIPE), onnx.node("Nonsense", "pixels", "spare")]),
        "expected a graph that ONNX Runtime loads",
    ),
    "cyclic graph": (
        lambda: assemble(nodes=[*files.nodes(RECIPE), onnx.node("Add", "a pixels", "b"), onnx.node("Neg", "b", "a")]),
        "expected a graph that ONNX Runtime loads",
    ),
    "node replaces threshold": (
        lambda: assemble(nodes=[*files.nodes(RECIPE), onnx.node("Neg", "zero", "threshold")]),
        "expected a graph that ONNX Runtime loads",
    ),
    "NaN weights": (
        lambda: build(Recipe(weights={"w": np.full((30, 4), np.nan, np.float32)})),
        "golden image: expected label, accepted, confidence",
    ),
    "other weights": (
        lambda: build(Recipe(weights={"w": np.zeros((30, 4), np.float32)})),
        "golden image: expected label, accepted, confidence",
    ),
    "rule not in the graph": (
        lambda: swap(b"accepted", onnx.node("Equal", "y y", "accepted"), Recipe(threshold=1.0, calibrated=True)),
        "that the rule pair rejects, got it accepted",
    ),
    "confidence from nowhere": (
        lambda: swap(b"confidence", onnx.node("ReduceMin", "softmax one", "confidence", keepdims=0), RECIPE),
        "golden image: expected label, accepted, confidence",
    ),
    "scalar labels": (
        lambda: assemble(nodes=[*files.nodes(RECIPE)[:-1], onnx.node("Cast", "minus_one", "labels", to=onnx.INT32)]),
        "expected a graph that ONNX Runtime loads|expected outputs for 1 images, got the shapes",
    ),
}


def swap(output: bytes, node: bytes, recipe: Recipe) -> bytes:
    """The honest file with the node that made `output` replaced, stamped as if nothing had happened."""
    made = onnx.field(2, output)
    nodes = [node if made in each else each for each in files.nodes(recipe)]
    graph = onnx.graph(nodes, files.initializers(recipe), files.inputs(recipe), files.outputs(recipe))
    model = onnx.model(graph)
    return stamp(model, files.document(recipe, files.graph_digest(model)))


@pytest.mark.parametrize("name", [b"matched", b"accepted"])
def test_a_graph_that_accepts_everything_is_caught_at_the_first_such_image(name: bytes) -> None:
    """Its golden image is one that the rule accepts, so that loading cannot tell."""
    guard = Guard(swap(name, onnx.node("Equal", "y y", name.decode()), Recipe()), device="cpu")
    with pytest.raises(ModelError, match="that the rule pair rejects, got it accepted: Verdict"):
        guard.classify(files.random_images(Recipe(), 200))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        Guard(make(), device="cpu", threads=1)


def test_the_same_builder_makes_a_good_file() -> None:
    assert Guard(assemble(), device="cpu", threads=1).spec.rule == "pair"


def test_every_truncation_is_refused(model: bytes) -> None:
    for length in range(0, len(model), 7):
        with pytest.raises(ModelError, match="expected"):
            Guard(model[:length], device="cpu", threads=1)


def test_external_data_is_not_read_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(np.zeros((30, 4), np.float32).tobytes())
    (tmp_path / "weights.bin").symlink_to(tmp_path / "secret")
    (tmp_path / "guard.onnx").write_bytes(assemble(initializers={"w": external("weights.bin")}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="got external data"):
        Guard("guard.onnx", device="cpu")


def test_restamp_leaves_an_honest_file_as_it_is(model: bytes) -> None:
    assert restamp(model) == model
