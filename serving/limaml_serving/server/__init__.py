"""The embedded server: TensorFlow Serving's protocol, for development and a single node."""

from limaml_serving.errors import ConfigError
from limaml_serving.server.app import EmbeddedServer
from limaml_serving.server.config import ModelSettings, VersionPolicy, read_models_config
from limaml_serving.server.tls import ServerTls

__all__ = [
    "ConfigError",
    "EmbeddedServer",
    "ModelSettings",
    "ServerTls",
    "VersionPolicy",
    "read_models_config",
]
