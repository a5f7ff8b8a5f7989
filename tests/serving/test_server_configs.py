"""The model server's configuration files: they parse, and agree with each other and with the
deployments.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

SERVING = Path(__file__).resolve().parents[2] / "serving"


BOOL, STRING, INT64 = 8, 9, 3


def _message(name: str, fields: dict[str, tuple[int, Any]]) -> Any:
    """A message class with the public fields of a config proto that the stubs package does not
    hold.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="t", syntax="proto3")

    def add(message: str, content: dict[str, tuple[int, Any]]) -> None:
        target = file.message_type.add(name=message)
        for field, (number, kind) in content.items():
            if isinstance(kind, dict):
                add(f"{message}_{field}", kind)
                target.field.add(
                    name=field, number=number, label=1, type=11, type_name=f".t.{message}_{field}"
                )
            else:
                target.field.add(name=field, number=number, label=1, type=kind)

    add(name, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))


def _read(name: str, message: Any) -> Any:
    return text_format.Parse((SERVING / "config" / name).read_text(), message())


def test_models_config_parses_and_every_label_points_to_a_version_that_is_loaded():
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    (model,) = _read("models.config", ModelServerConfig).model_config_list.config
    assert (model.name, model.base_path) == ("ranker", "/models/ranker")
    assert set(model.version_labels) == {"stable", "canary"}
    assert set(model.version_labels.values()) <= set(model.model_version_policy.specific.versions)


def test_the_embedded_server_reads_the_same_models_config():
    from limaml_serving.server import read_models_config

    settings = read_models_config(SERVING / "config" / "models.config")["ranker"]
    assert (settings.policy.kind, settings.policy.versions, dict(settings.labels)) == (
        "specific",
        (1,),
        {"stable": 1, "canary": 1},
    )


def test_batching_config_parses_and_its_values_agree_with_each_other():
    number = {"value": (1, INT64)}
    parameters = _read(
        "batching.config",
        _message(
            "BatchingParameters",
            {
                "max_batch_size": (1, number),
                "batch_timeout_micros": (2, number),
                "max_enqueued_batches": (3, number),
                "num_batch_threads": (4, number),
                "pad_variable_length_inputs": (7, BOOL),
                "enable_large_batch_splitting": (8, {"value": (1, BOOL)}),
                "max_execution_batch_size": (9, number),
            },
        ),
    )
    assert parameters.enable_large_batch_splitting.value
    assert parameters.max_execution_batch_size.value <= parameters.max_batch_size.value


def test_monitoring_config_parses_and_its_path_is_the_one_scraped(manifests):
    config = _read(
        "monitoring.config",
        _message(
            "MonitoringConfig",
            {"prometheus_config": (1, {"enable": (1, BOOL), "path": (2, STRING)})},
        ),
    )
    assert config.prometheus_config.enable
    (deployment,) = (m for m in manifests if m["kind"] == "Deployment")
    assert (
        deployment["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]
        == config.prometheus_config.path
    )


@pytest.mark.parametrize("mutual", [True, False])
def test_the_ssl_config_holds_the_pem_files_to_the_letter(tmp_path, mutual):
    pem = {
        name: f"-----BEGIN {name}-----\nab+/=\ncd\n-----END {name}-----\n"
        for name in ("KEY", "CERTIFICATE", "CA")
    }
    names = list(pem)[: 3 if mutual else 2]
    for name in names:
        (tmp_path / name).write_text(pem[name])
    script = SERVING / "config" / "make_ssl_config.sh"
    text = subprocess.run(
        [script, *names], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    fields = {
        "server_key": (1, STRING),
        "server_cert": (2, STRING),
        "custom_ca": (3, STRING),
        "client_verify": (4, BOOL),
    }
    config = text_format.Parse(text, _message("SSLConfig", fields)())
    assert (config.server_key, config.server_cert) == (pem["KEY"], pem["CERTIFICATE"])
    assert (config.custom_ca, config.client_verify) == (
        (pem["CA"], True) if mutual else ("", False)
    )


def test_the_ssl_script_refuses_a_missing_file(tmp_path):
    done = subprocess.run(
        [SERVING / "config" / "make_ssl_config.sh", "a", "b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "cannot read a" in done.stderr
