"""Meta blocks and global blocks."""

from tfrec_limaml.blocks.base import GlobalBlock, MetaBlock
from tfrec_limaml.blocks.bilinear import BilinearGlobalBlock
from tfrec_limaml.blocks.dcn import DCNGlobalBlock
from tfrec_limaml.blocks.dlrm import DLRMGlobalBlock
from tfrec_limaml.blocks.dot_product import DotProductGlobalBlock
from tfrec_limaml.blocks.features_and_id import FeaturesAndIDMetaBlock
from tfrec_limaml.blocks.functional import FunctionalGlobalBlock
from tfrec_limaml.blocks.id_embedding import IDEmbeddingMetaBlock
from tfrec_limaml.blocks.joint import JointMetaBlocks
from tfrec_limaml.blocks.keras_meta import KerasMetaBlock
from tfrec_limaml.blocks.mlp import MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.blocks.nested import NestedMetaBlocks
from tfrec_limaml.blocks.offset import OffsetMetaBlock
from tfrec_limaml.blocks.support_encoder import SupportEncoder
from tfrec_limaml.blocks.transformer import TransformerMetaBlock
from tfrec_limaml.blocks.wide_and_deep import WideAndDeepGlobalBlock

__all__ = [
    "BilinearGlobalBlock",
    "DCNGlobalBlock",
    "DLRMGlobalBlock",
    "DotProductGlobalBlock",
    "FeaturesAndIDMetaBlock",
    "FunctionalGlobalBlock",
    "GlobalBlock",
    "IDEmbeddingMetaBlock",
    "JointMetaBlocks",
    "KerasMetaBlock",
    "MLPGlobalBlock",
    "MLPMetaBlock",
    "MetaBlock",
    "NestedMetaBlocks",
    "OffsetMetaBlock",
    "SupportEncoder",
    "TransformerMetaBlock",
    "WideAndDeepGlobalBlock",
]
