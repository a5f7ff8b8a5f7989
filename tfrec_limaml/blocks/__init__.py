"""Meta blocks and global blocks."""

from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock
from tfrec_limaml.blocks.mlp import MLPGlobalBlock, MLPMetaBlock

__all__ = ["GlobalBlock", "MLPGlobalBlock", "MLPMetaBlock", "MetaBlock"]
