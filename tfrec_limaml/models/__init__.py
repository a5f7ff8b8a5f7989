"""Keras models: `LiMAML`, and the models it is compared with."""

import tfrec_limaml.tasks.feature_encoder  # noqa: F401  registers the encoder, which saved models hold
from tfrec_limaml.models.entire_network import EntireNetworkMAML
from tfrec_limaml.models.joint import JointLiMAML
from tfrec_limaml.models.limaml import LiMAML
from tfrec_limaml.models.logit_auc import LogitAUC
from tfrec_limaml.models.maml_model import MAMLModel
from tfrec_limaml.models.task_model import TaskModel
from tfrec_limaml.models.two_block_model import TwoBlockModel
from tfrec_limaml.models.vanilla import Vanilla

__all__ = [
    "EntireNetworkMAML",
    "JointLiMAML",
    "LiMAML",
    "LogitAUC",
    "MAMLModel",
    "TaskModel",
    "TwoBlockModel",
    "Vanilla",
]
