"""What the trusted loader reads from the ONNX bytes themselves, before anything else sees them.

Source: ``docs/file-format.md``, "Tensors".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from runtime.errors import ModelError
from runtime.onnx_messages import MODEL
from runtime.records import Record
from runtime.wire import Tree, parse, varint

METADATA_KEY = b"cmt.guard"
IR_VERSIONS = range(8, 11)
OPSETS = range(18, 22)
FLOAT, UINT8, INT32, INT64, BOOL = 1, 2, 6, 7, 9
MAX_RANK = 64
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
REFUSED = (*RANDOM, "Loop")
"""Operators whose answer changes from run to run, or that may never answer."""

ITEM_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}

Shape = tuple[int | None, ...]
"""Dimensions of a declared tensor; None where they are symbolic."""


class Graph(Record):
    """The facts of a file that its metadata must agree with.

    Attributes:
        inputs: Element type and shape of every graph input, by name.
        outputs: The same of every graph output.
        threshold: Where the four bytes of the initializer `threshold` lie in the file.
        classmap: The initializer `classmap`, None where there is none.
        document: The text under the metadata key `cmt.guard`.
    """

    inputs: dict[str, tuple[int, Shape]]
    outputs: dict[str, tuple[int, Shape]]
    threshold: slice
    classmap: tuple[int, ...] | None
    document: str


def read_graph(data: memoryview) -> Graph:
    """Read a guard file without ONNX Runtime and without onnx.

    Args:
        data: The whole file.

    Raises:
        ModelError: The bytes are no ONNX file, or one that reads other files, brings its own operators or functions,
            is of another version, or lacks what every guard file has.
    """
    model = parse(data, MODEL)
    _check_versions(data, model)
    if 7 not in model:
        raise ModelError("model file: expected a graph, got none; is this an ONNX file?")
    graph: Tree = model[7]
    _check_nodes(data, graph)
    for tensor in _tensors(graph):
        _check_tensor(data, tensor)
    if 15 in graph:
        raise ModelError("model file: expected dense initializers, got a sparse one; export it again")
    initializers = _initializers(data, graph)
    _check_read(initializers, set(_read_names(data, graph)))
    classmap = initializers.get(b"classmap")
    return Graph(
        inputs=_value_infos(data, graph.get(11, [])),
        outputs=_value_infos(data, graph.get(12, [])),
        threshold=_threshold(data, initializers.get(b"threshold")),
        classmap=None if classmap is None else _classmap(data, classmap),
        document=_document(data, model.get(14, [])),
    )


def locate_threshold(data: memoryview) -> slice:
    """Return where the four bytes of the initializer `threshold` lie in a file, stamped or not.

    Raises:
        ModelError: The bytes are no ONNX file, or it has no such float32 scalar.
    """
    return _threshold(data, _initializers(data, parse(data, MODEL).get(7, {})).get(b"threshold"))


def _check_versions(data: memoryview, model: Tree) -> None:
    if 20 in model:
        raise ModelError("model file: expected no training info, got some; export it for inference")
    if 25 in model:
        raise ModelError("model file: expected no local functions, got some; inline them before the export")
    if model.get(1) not in IR_VERSIONS:
        raise ModelError(f"model file: expected IR version 8 to 10, got {model.get(1)}; export it again with cmt")
    opsets = [(_text(data, entry.get(1)), entry.get(2)) for entry in model.get(8, [])]
    if len(opsets) != 1 or not _is_plain_domain(opsets[0][0]) or opsets[0][1] not in OPSETS:
        shown = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in opsets[:4]) or "none"
        raise ModelError(
            f"model file: expected the one operator set ai.onnx 18 to 21, got {shown:.200}; export it again"
        )


def _check_nodes(data: memoryview, graph: Tree) -> None:
    for node in graph.get(1, []):
        domain, operator = _text(data, node.get(7)), _text(data, node.get(4))
        if not _is_plain_domain(domain):
            raise ModelError(
                f"node {operator:.80}: expected an ai.onnx operator, got one of {domain:.80}; export it again"
            )
        if operator in REFUSED or _drops_at_random(node, operator):
            raise ModelError(
                f"node {operator:.80}: expected an answer that is always the same and always comes, got chance or a "
                "loop; export it without this operator"
            )
        for attribute in node.get(5, []):
            for subgraph in _subgraphs(attribute):
                _check_nodes(data, subgraph)


def _drops_at_random(node: Tree, operator: str) -> bool:
    return operator == "Dropout" and len(node.get(1, [])) > 2  # the third input turns training on


def _check_read(initializers: dict[bytes, Tree], read: set[bytes]) -> None:
    """Refuse a rule that no node looks at: what the metadata says of it would say nothing of the file."""
    for name in (b"threshold", b"classmap"):
        if name in initializers and name not in read:
            raise ModelError(f"{name.decode()}: expected a node that reads it, got none; export the file again")


def _read_names(data: memoryview, graph: Tree) -> Iterator[bytes]:
    """Yield the name of every input of every node, those in subgraphs included."""
    for node in graph.get(1, []):
        yield from (bytes(data[name]) for name in node.get(1, []) if isinstance(name, slice))
        for attribute in node.get(5, []):
            for subgraph in _subgraphs(attribute):
                yield from _read_names(data, subgraph)


def _subgraphs(attribute: Tree) -> list[Tree]:
    graphs: list[Tree] = attribute.get(11, [])
    return [attribute[6], *graphs] if 6 in attribute else graphs


def _tensors(graph: Tree) -> Iterator[Tree]:
    """Yield every tensor in a graph, those of its attributes, subgraphs and sparse tensors included."""
    yield from graph.get(5, [])
    sparse = list(graph.get(15, []))
    for node in graph.get(1, []):
        for attribute in node.get(5, []):
            yield from [attribute[5]] if 5 in attribute else []
            yield from attribute.get(10, [])
            sparse += ([attribute[22]] if 22 in attribute else []) + attribute.get(23, [])
            for subgraph in _subgraphs(attribute):
                yield from _tensors(subgraph)
    for tensor in sparse:
        yield from (tensor[part] for part in (1, 2) if part in tensor)


def _check_tensor(data: memoryview, tensor: Tree) -> None:
    name = _text(data, tensor.get(8))
    if tensor.get(14, 0) != 0 or 13 in tensor:
        raise ModelError(f"tensor {name!a:.80}: expected its data in the file, got external data; export one file")
    shape = _shape(data, tensor)
    size = ITEM_SIZES.get(tensor.get(2, 0))
    if size and 9 in tensor:
        expected, got = math.prod(shape) * size, tensor[9].stop - tensor[9].start
        if expected != got:
            raise ModelError(
                f"tensor {name!a:.80}: expected {expected} bytes for its shape, got {got}; export it again"
            )


def _initializers(data: memoryview, graph: Tree) -> dict[bytes, Tree]:
    tensors = graph.get(5, [])
    initializers = {bytes(data[tensor[8]]) if 8 in tensor else b"": tensor for tensor in tensors}
    if len(initializers) != len(tensors):
        raise ModelError("model file: expected initializers with distinct names, got a repeated one; export it again")
    return initializers


def _threshold(data: memoryview, tensor: Tree | None) -> slice:
    if tensor is None:
        raise ModelError("model file: expected the initializer threshold, got none; is this a guard file of cmt?")
    raw: slice | None = tensor.get(9)
    shape = _shape(data, tensor)
    if tensor.get(2) != FLOAT or shape or raw is None:
        raise ModelError(f"threshold: expected a float32 scalar as raw data, got type {tensor.get(2)}, shape {shape}")
    return raw


def _classmap(data: memoryview, tensor: Tree) -> tuple[int, ...]:
    shape = _shape(data, tensor)
    if tensor.get(2) != INT64 or len(shape) != 1 or 9 not in tensor:
        raise ModelError(f"classmap: expected int64 (K,) as raw data, got type {tensor.get(2)} and shape {shape}")
    raw = bytes(data[tensor[9]])
    return tuple(int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(0, len(raw), 8))


def _document(data: memoryview, entries: list[Tree]) -> str:
    keys = [bytes(data[entry[1]]) if 1 in entry else b"" for entry in entries]
    if keys != [METADATA_KEY] or 2 not in entries[0]:
        shown = ", ".join(ascii(key.decode("latin-1")) for key in keys[:4]) or "no entry"
        raise ModelError(f"metadata: expected the one entry cmt.guard, got {shown}; is this a guard file of cmt?")
    try:
        return bytes(data[entries[0][2]]).decode("ascii")
    except UnicodeDecodeError:
        raise ModelError("metadata: expected ASCII text, got other bytes; export the file again") from None


def _value_infos(data: memoryview, infos: list[Tree]) -> dict[str, tuple[int, Shape]]:
    values = {}
    for info in infos:
        name = _text(data, info.get(1))
        tensor = info.get(2, {}).get(1, {})
        if name in values or 1 not in tensor or 2 not in tensor:
            raise ModelError(f"{name!a:.80}: expected one tensor with type and shape, got none or two; export it again")
        values[name] = (tensor[1], tuple(_dimension(name, each) for each in tensor[2].get(1, [])))
    return values


def _dimension(name: str, dimension: Tree) -> int | None:
    if 1 in dimension and 2 in dimension:
        raise ModelError(f"{name!a:.80}: expected a number or a symbol as dimension, got both; export the file again")
    value: int | None = dimension.get(1)
    return value


def _shape(data: memoryview, tensor: Tree) -> list[int]:
    """Return the dimensions of a tensor, a repeated integer field, packed or not."""
    shape: list[int] = []
    for value in tensor.get(1, []):
        if isinstance(value, int):
            shape.append(value)
            continue
        position = value.start
        while position < value.stop and len(shape) <= MAX_RANK:
            number, position = varint(data, position, value.stop)
            shape.append(number)
    if len(shape) > MAX_RANK:
        raise ModelError(f"tensor: expected at most {MAX_RANK} dimensions, got more; export the file again")
    return shape


def _is_plain_domain(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def _text(data: memoryview, where: slice | None) -> str:
    return "" if where is None else bytes(data[where]).decode("utf-8", "backslashreplace")
