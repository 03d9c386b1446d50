"""A page a file: the answer with its reasons and limits, in one HTML file that asks nobody for anything.

`page` is a pure function of what is said (a `Prediction`), what is shown of the file and what is told of the detector;
`look` makes the second, `about_detector` the third, `pages` writes all of it while `predict` goes over many files.
"""

from pipeline.detector.page.about import about_detector
from pipeline.detector.page.document import page, policy
from pipeline.detector.page.look import look
from pipeline.detector.page.names import page_names
from pipeline.detector.page.shown import About, Shown
from pipeline.detector.page.written import pages

__all__ = ["About", "Shown", "about_detector", "look", "page", "page_names", "pages", "policy"]
