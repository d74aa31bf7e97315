"""Every defence beside every other: `defences` makes one comparison of many results, `records` is what it consists of.

`pointwise` counts image by image, `published` has the numbers of papers, `names` what rows are called; `pages` and
`figure` write and draw it.
"""

from calibration.comparing.defences import ORDERS, compare

__all__ = ["ORDERS", "compare"]
