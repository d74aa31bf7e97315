"""What an evaluation found: `document` is the file of one guard, `pool` that of several, `records` are their parts.

`image_columns` packs a value for each image, `detection_figures` and `worst_case` are counted from them, `pairs` says
which of two attacks succeeds more often. `joining` makes one of several results, `resuming` goes on with a part,
`phrasing` puts attacks and shares into words.
"""

from calibration.results.document import Results
from calibration.results.pool import PoolResults, load_results

__all__ = ["PoolResults", "Results", "load_results"]
