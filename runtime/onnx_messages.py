"""The messages of an ONNX file, as far as the trusted loader looks into them.

Source: ``onnx.proto`` of ONNX 1.17 (IR version 10). Fields that have no place in a guard file are left out and so
refused: segments of tensors, references to function attributes, device placement.
"""

from __future__ import annotations

from runtime.wire import Message


def _numbers(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


TENSOR = Message(
    name="TensorProto",
    varints=_numbers(2, 14),  # data_type, data_location
    bytes=_numbers(8, 9, 12),  # name, raw_data, doc_string
    many=_numbers(1, 4, 5, 6, 7, 10, 11, 13, 16),  # dims, typed data, external_data, metadata_props
)
SPARSE_TENSOR = Message(name="SparseTensorProto", many=_numbers(3), messages={1: TENSOR, 2: TENSOR})
_in_attributes: dict[int, Message] = {5: TENSOR, 22: SPARSE_TENSOR}  # t, sparse_tensor; g is added below
_listed_in_attributes: dict[int, Message] = {10: TENSOR, 23: SPARSE_TENSOR}  # the same, repeated
ATTRIBUTE = Message(
    name="AttributeProto",
    varints=_numbers(3, 20),  # i, type
    fixed32=_numbers(2),  # f
    bytes=_numbers(1, 4, 13, 14),  # name, s, doc_string, tp
    many=_numbers(7, 8, 9, 15),  # floats, ints, strings, type_protos
    messages=_in_attributes,
    lists=_listed_in_attributes,
)
NODE = Message(
    name="NodeProto",
    bytes=_numbers(3, 4, 6, 7, 8),  # name, op_type, doc_string, domain, overload
    many=_numbers(1, 2, 9),  # input, output, metadata_props
    lists={5: ATTRIBUTE},
)
DIMENSION = Message(name="Dimension", varints=_numbers(1), bytes=_numbers(2, 3))  # dim_value; dim_param, denotation
SHAPE = Message(name="TensorShapeProto", lists={1: DIMENSION})
TENSOR_TYPE = Message(name="TypeProto.Tensor", varints=_numbers(1), messages={2: SHAPE})  # elem_type, shape
TYPE = Message(name="TypeProto", bytes=_numbers(6), messages={1: TENSOR_TYPE})  # denotation; nothing but tensors
VALUE_INFO = Message(name="ValueInfoProto", bytes=_numbers(1, 3), many=_numbers(4), messages={2: TYPE})
GRAPH = Message(
    name="GraphProto",
    bytes=_numbers(2, 10),  # name, doc_string
    many=_numbers(13, 14, 16),  # value_info, quantization_annotation, metadata_props
    lists={1: NODE, 5: TENSOR, 11: VALUE_INFO, 12: VALUE_INFO, 15: SPARSE_TENSOR},
)
_in_attributes[6] = _listed_in_attributes[11] = GRAPH
ENTRY = Message(name="StringStringEntryProto", bytes=_numbers(1, 2))  # key, value
OPSET = Message(name="OperatorSetIdProto", varints=_numbers(2), bytes=_numbers(1))  # version, domain
MODEL = Message(
    name="ModelProto",
    varints=_numbers(1, 5),  # ir_version, model_version
    bytes=_numbers(2, 3, 4, 6),  # producer_name, producer_version, domain, doc_string
    many=_numbers(20, 25),  # training_info, functions
    messages={7: GRAPH},
    lists={8: OPSET, 14: ENTRY},
)
