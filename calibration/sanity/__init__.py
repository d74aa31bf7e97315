"""What a strict reviewer asks of results: `catalogue` lists every check, `check` says what one is.

`comparisons` are those that compare attacks, `figures` those that hold a figure against a limit. The attacks that only
checks need are run by `calibration.evaluation.probes`.
"""

from calibration.sanity.catalogue import CHECKS, MASKING, check_sanity
from calibration.sanity.check import SanityCheck, SanityVerdict

__all__ = ["CHECKS", "MASKING", "SanityCheck", "SanityVerdict", "check_sanity"]
