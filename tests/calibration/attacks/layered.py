"""Fully connected networks as files, ``pixels`` -> ``logits``: with one layer, nearest boundaries are known exactly."""

import numpy as np
import onnx.parser
import torch
from onnx import numpy_helper
from torch import nn

from calibration.gradients import GradientGraph


def layered(*layers):
    """The gradient graph of layers ``(weights (out, in), bias (out,))`` on one row of pixels, ReLU between them."""
    constants, body, value = {}, "", "layer_0"
    for number, (weights, bias) in enumerate(layers):
        last = number == len(layers) - 1
        constants |= {f"weights_{number}": weights, f"bias_{number}": bias}
        after = "logits" if last else f"sums_{number}"
        body += f"{after} = Gemm <transB = 1> ({value}, weights_{number}, bias_{number})\n"
        if not last:
            value = f"layer_{number + 1}"
            body += f"{value} = Relu ({after})\n"
    pixels, k = np.shape(layers[0][0])[1], np.shape(layers[-1][0])[0]
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        layered (float[N,1,1,{pixels}] pixels) => (float[N,{k}] logits) {{
          layer_0 = Flatten (pixels)
          {body} }}"""
    )
    for name, constant in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant, dtype=np.float32), name))
    return GradientGraph(model, threads=1)


def linear(weights, bias):
    """The gradient graph of logits ``weights @ pixels + bias``."""
    return layered((weights, bias))


def random_network(*, pixels, classes=10, hidden=40, seed=0):
    """A network of two layers, in torch and as a gradient graph."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, classes)).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False).mul_(4)
    graph = layered(*((layer.weight.numpy(), layer.bias.numpy()) for layer in (network[1], network[3])))
    return network, graph


class Counting:
    """A victim that counts the images that reach its graph, forward and for each gradient."""

    def __init__(self, graph):
        self.graph, self.shape, self.classes = graph, graph.shape, graph.classes
        self.forward, self.gradients = [], []

    def logits(self, x):
        self.forward.append(len(x))
        return self.graph.logits(x)

    def logits_and_jacobian(self, x, *, classes):
        self.gradients.append(classes.size)
        return self.graph.logits_and_jacobian(x, classes=classes)

    def value_and_gradient(self, objective, x, **inputs):
        self.gradients.append(len(x))
        return self.graph.value_and_gradient(objective, x, **inputs)
