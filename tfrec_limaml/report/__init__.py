"""Writes a self-contained ``report.html`` about a run.

It shows learning curves, AUC by length of history and a map of the embeddings. The charts are
inline SVG drawn by this package: they follow the reader's light or dark theme through CSS
variables, need no plotting library and load no other files.
"""

from tfrec_limaml.report.contents import EmbeddingMap, MemberStory, RankedItem, Report
from tfrec_limaml.report.page import write_report

__all__ = ["EmbeddingMap", "MemberStory", "RankedItem", "Report", "write_report"]
