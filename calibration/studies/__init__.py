"""Measurements behind choices that were made once, for `benchmarks` and ``results``; no command needs them.

`classmap` asks what a Classmap owes to the way it was estimated, `confidence` which of the confidences in `candidates`
holds best.
"""
