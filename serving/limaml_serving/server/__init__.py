"""The embedded server: TensorFlow Serving's protocol, for development and a single node."""

from limaml_serving.errors import ConfigError
from limaml_serving.server.app import EmbeddedServer, ServerTls
from limaml_serving.server.config import ModelSettings, VersionPolicy, read_models_config

__all__ = [
    "ConfigError",
    "EmbeddedServer",
    "ModelSettings",
    "ServerTls",
    "VersionPolicy",
    "read_models_config",
]
