"""Labelled images: a `Dataset` of two splits, loaded from digits, from arrays or from a folder of image files.

`dataset` is what the rest of the project sees, `arrays` and `folders` read it, `loading` tells which of them a name
stands for, `wording` shows names and shapes in messages.
"""

from calibration.datasets.dataset import Dataset, Split, make_dataset
from calibration.datasets.loading import load_dataset

__all__ = ["Dataset", "Split", "load_dataset", "make_dataset"]
