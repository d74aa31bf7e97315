"""Training and export: PyTorch in, one guarded ONNX file out.

Nothing here is imported before it is needed: ``cmt score`` works where torch is not installed. The tour, in the order
of the work: `networks`, `objective`, `training`, `checkpoint`, `exporting`, `parity`, and `demo` for all of it at once.
"""
