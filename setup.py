"""Packaging: three import packages, two of them below the folders ``beam/`` and ``serving/``."""

from pathlib import Path

from setuptools import find_packages, setup

BEAM = [
    "apache-beam>=2.70",
    "google-crc32c>=1.5",
    "isal>=1.7",
    "prometheus-client>=0.20",
    "tfx-bsl>=1.21",
]
SERVING = [
    "tensorflow-serving-api>=2.19.1",
    "cryptography>=42",  # the dates of the server's certificates
    "grpcio-health-checking>=1.60",
    "grpcio-reflection>=1.60",
    "prometheus-client>=0.20",
]
REDIS = ["redis>=6.1"]  # transactions in a cluster
AWS = ["boto3>=1.34"]  # s3:// in the Beam jobs
STREAM = ["confluent-kafka>=2.5"]  # Kafka in limaml stream
TENSORBOARD = ["tensorboard>=2.20"]
SEARCH = ["optuna>=4"]
COMPARE = ["lightgbm>=4.5", "scikit-learn>=1.5"]
DOCS = ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.29"]
DEV = [
    "build",
    "hypothesis",
    "moto[server]>=5",  # an S3 server for tests
    "mypy",
    "pip-tools",
    "pre-commit",
    "pytest",
    "pytest-cov",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "setuptools>=77",  # builds the wheel that a test installs
    "types-PyYAML",
]

setup(
    name="tfrec-limaml",
    version="0.2.0",
    description="Personalise deep recommender models with LiMAML: meta-learned member embeddings "
    "for Keras 3, Beam and TF Serving.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.12",
    packages=[
        *find_packages(include=["tfrec_limaml", "tfrec_limaml.*"]),
        *find_packages("beam", include=["limaml_beam", "limaml_beam.*"]),
        *find_packages("serving", include=["limaml_serving", "limaml_serving.*"]),
    ],
    package_dir={"limaml_beam": "beam/limaml_beam", "limaml_serving": "serving/limaml_serving"},
    package_data={
        "tfrec_limaml": ["py.typed", "**/*.html", "**/*.css", "**/*.yaml"],
        "limaml_beam": ["py.typed"],
        "limaml_serving": ["py.typed"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",  # tfrec_limaml/keras_internals.py
        "tensorflow-recommenders==0.7.3",  # later versions refuse Keras 3
        "lmdb>=1.4",
        "numpy>=1.26",
        "pandas>=2.2",
        "pyarrow>=16",
        "pyyaml>=6",
        "tqdm>=4.66",
    ],
    extras_require={
        "beam": BEAM,
        "serving": SERVING,
        "redis": REDIS,
        "aws": AWS,
        "stream": STREAM,
        "tensorboard": TENSORBOARD,
        "search": SEARCH,
        "compare": COMPARE,
        "docs": DOCS,
        "dev": [*DEV, *DOCS],
        "all": [*BEAM, *SERVING, *REDIS, *STREAM, *TENSORBOARD, *SEARCH, *COMPARE],
    },
    entry_points={
        "console_scripts": ["limaml = tfrec_limaml.cli:main"],
        "limaml.export_hooks": ["warmup = limaml_serving.export_hook:write_warmup"],
        "limaml.commands": [
            "datasets = tfrec_limaml.commands.datasets:COMMAND",
            "train = tfrec_limaml.commands.train:COMMAND",
            "evaluate = tfrec_limaml.commands.evaluate:COMMAND",
            "compare = tfrec_limaml.commands.compare:COMMAND",
            "diagnose = tfrec_limaml.commands.diagnose:COMMAND",
            "export = tfrec_limaml.commands.export:COMMAND",
            "reproduce = tfrec_limaml.commands.reproduce:COMMAND",
            "demo = tfrec_limaml.commands.demo:COMMAND",
            "store = tfrec_limaml.commands.store:COMMAND",
            "prepare = limaml_beam.commands:PREPARE",
            "embed = limaml_beam.commands:EMBED",
            "refresh = limaml_beam.commands:REFRESH",
            "update = limaml_beam.commands:UPDATE",
            "stream = limaml_beam.commands:STREAM",
            "erase = limaml_beam.commands:ERASE",
            "serve = limaml_serving.commands:SERVE",
            "rank = limaml_serving.commands:RANK",
        ],
    },
)
