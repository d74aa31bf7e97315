"""What results allow to be said: `conclusion` gives the verdict, `doubts` what weakens it, whatever it is.

`briefing` is what a manager has to know, `outcome_table` what `cmt attack` prints.
"""

from calibration.findings.conclusion import COUNTED_PROBES, FALLS_ABOVE, REJECTS_MOST, Finding, Kind, conclude

__all__ = ["COUNTED_PROBES", "FALLS_ABOVE", "REJECTS_MOST", "Finding", "Kind", "conclude"]
