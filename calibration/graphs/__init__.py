"""ONNX graphs as they are taken apart and written, the ground of gradients and objectives alike.

`reading` makes one flat list of nodes of a model, `types` says what is known of its tensors, `operators` which nodes no
gradient passes, and `tape` is the list that objectives and reverse rules append nodes to.
"""
