"""One self-contained ``report.html`` about a run: learning curves, AUC by length of history, a map
of the embeddings.

The charts are inline SVG drawn here: they follow the reader's light or dark theme through CSS
variables, need no plotting library and load nothing from anywhere.
"""

from tfrec_limaml.report.contents import EmbeddingMap, MemberStory, RankedItem, Report
from tfrec_limaml.report.page import write_report

__all__ = ["EmbeddingMap", "MemberStory", "RankedItem", "Report", "write_report"]
