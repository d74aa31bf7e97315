"""Results as pages that need no network: `page` makes the report in HTML, `model_card` the card in Markdown.

`curves` says what is drawn and `plots` draws it, `inline_svg` takes a drawing into a page; `gallery` and
`confusion_table` show pictures and matrices. `templates` holds the pages' text and style, those of a comparison too.
"""

from calibration.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
