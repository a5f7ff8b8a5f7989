"""The subcommands that this package adds to ``limaml``."""

from limaml_serving.rank_command import RANK
from limaml_serving.serve_command import SERVE

__all__ = ["RANK", "SERVE"]
