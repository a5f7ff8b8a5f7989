"""The deployments by Compose and Kubernetes, checked as far as that goes without Docker or a
cluster: YAML, flags and house rules.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_port
from waiting import wait_for

SERVING = Path(__file__).resolve().parents[2] / "serving"


# Names of the options of tensorflow_model_server (model_servers/main.cc) that these files use.
FLAGS = {
    "port",
    "rest_api_port",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "file_system_poll_wait_seconds",
    "allow_version_labels_for_unavailable_models",
    "monitoring_config_file",
    "grpc_channel_arguments",
    "grpc_max_threads",
    "enable_grpc_healthcheck_service",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((SERVING / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def containers(manifests) -> dict[str, dict[str, Any]]:
    pods = [
        m["spec"]["template"]["spec"]
        for m in manifests
        if m["kind"] in ("Deployment", "StatefulSet")
    ]
    return {container["name"]: container for pod in pods for container in pod["containers"]}


def test_compose_publishes_ports_on_this_machine_only_and_mounts_what_exists(compose):
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert {"mem_limit", "healthcheck", "restart"} <= set(service)
    assert "./config:/config:ro" in compose["services"]["ranker"]["volumes"]


def test_redis_has_room_beside_its_data_to_rewrite_its_append_only_file(compose, containers):
    """A rewrite copies the pages that change meanwhile."""
    service = compose["services"]["redis"]
    words = " ".join(service["command"]), " ".join(containers["redis"]["args"])
    limits = service["mem_limit"], containers["redis"]["resources"]["limits"]["memory"]
    for text, limit in zip(words, limits, strict=True):
        maximum = int(re.search(r"--maxmemory (\d+)gb", text).group(1))
        assert 3 * int(re.fullmatch(r"(\d+)(g|Gi)", limit).group(1)) >= 5 * maximum


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_redis_reads_its_password_from_standard_input_and_its_probe_passes(containers, tmp_path):
    container, port = containers["redis"], str(free_port())
    environment = {"PATH": os.environ["PATH"], "REDIS_PASSWORD": "a password"}

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    script = container["args"][0].replace("/data", str(tmp_path))
    script = script.replace("redis-server -", f"redis-server - --port {port}", 1)
    *shell, probe = container["readinessProbe"]["exec"]["command"]
    probe = probe.replace("redis-cli", f"redis-cli -p {port}")
    with subprocess.Popen(
        [*container["command"], script], env=environment, stdout=subprocess.DEVNULL
    ) as redis:
        try:
            wait_for(lambda: run([*shell, probe]).returncode == 0)
            assert "NOAUTH" in run(["redis-cli", "-p", port, "get", "a"]).stdout
            arguments = Path(f"/proc/{redis.pid}/cmdline").read_text()
            assert arguments.startswith("redis-server")  # exec: it receives the SIGTERM below
            assert "a password" not in arguments
        finally:
            redis.terminate()
            assert redis.wait(10) == 0


def test_every_flag_given_to_the_server_exists_and_every_file_named_is_there(compose, containers):
    for flags in (
        compose["services"]["ranker"]["command"],
        containers["tensorflow-serving"]["args"],
    ):
        given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        assert set(given) <= FLAGS
        for value in given.values():
            if value.startswith("/config/"):
                assert (SERVING / "config" / Path(value).name).is_file()


def test_both_deployments_set_the_number_of_requests_handled_at_once(compose, containers):
    flags = [compose["services"]["ranker"]["command"], containers["tensorflow-serving"]["args"]]
    for each in flags:
        assert [flag for flag in each if flag.startswith("--grpc_max_threads=")] == [
            "--grpc_max_threads=64"
        ]


def test_health_is_asked_of_a_version_or_of_grpc_and_never_of_a_label(compose, containers):
    """The real server's REST address of a label answers 200 for any label."""
    (script,) = [
        part for part in compose["services"]["ranker"]["healthcheck"]["test"] if "GET" in part
    ]
    assert "/versions/" in script
    for state, healthy in (("AVAILABLE", True), ("UNAVAILABLE", False), ("LOADING", False)):
        answer = f'{{"model_version_status": [{{"version": "1", "state": "{state}"}}]}}'
        grep = script.rpartition("&& ")[2].replace("<&3", "")
        done = subprocess.run(["bash", "-c", grep], input=answer, text=True, check=False)
        assert (done.returncode == 0) is healthy
    container = containers["tensorflow-serving"]
    for name in ("startupProbe", "readinessProbe"):
        assert container[name]["grpc"] == {"port": 8500, "service": "PredictionService"}
    assert "--enable_grpc_healthcheck_service=true" in container["args"]
    assert 8500 in [port["containerPort"] for port in container["ports"]]


def test_a_workload_with_an_autoscaler_has_no_number_of_replicas_of_its_own(manifests):
    """Otherwise each `kubectl apply` sets it back."""
    scaled = {
        (m["spec"]["scaleTargetRef"]["kind"], m["spec"]["scaleTargetRef"]["name"])
        for m in manifests
        if m["kind"] == "HorizontalPodAutoscaler"
    }
    assert scaled
    for m in manifests:
        if (m["kind"], m["metadata"]["name"]) in scaled:
            assert "replicas" not in m["spec"]


def test_both_deployments_run_the_same_pinned_images(compose, containers):
    assert (
        compose["services"]["ranker"]["image"].replace("${TF_SERVING_VERSION:-2.19.1}", "2.19.1")
        == containers["tensorflow-serving"]["image"]
    )
    assert compose["services"]["redis"]["image"] == containers["redis"]["image"]
    assert all(
        ":" in c["image"] and not c["image"].endswith(":latest") for c in containers.values()
    )


def test_every_container_has_probes_and_limits_and_no_privileges(containers):
    for container in containers.values():
        assert {"readinessProbe", "livenessProbe", "resources", "securityContext"} <= set(container)
        assert (
            set(container["resources"]["limits"])
            == set(container["resources"]["requests"])
            == {"cpu", "memory"}
        )
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_selectors_ports_volumes_and_probes_refer_to_things_that_exist(manifests):
    labels = {
        m["metadata"]["name"]: m["spec"]["template"]["metadata"]["labels"]
        for m in manifests
        if m["kind"] in ("Deployment", "StatefulSet")
    }
    for m in manifests:
        if m["kind"] == "Service":
            assert m["spec"]["selector"] in labels.values()
        elif m["kind"] in ("PodDisruptionBudget",):
            assert m["spec"]["selector"]["matchLabels"] in labels.values()
        elif m["kind"] == "NetworkPolicy":
            assert m["spec"]["podSelector"]["matchLabels"] in labels.values()
        elif m["kind"] == "HorizontalPodAutoscaler":
            assert m["spec"]["scaleTargetRef"]["name"] in labels
        elif m["kind"] in ("Deployment", "StatefulSet"):
            _check_pod(m)


def _check_pod(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    volumes = {v["name"] for v in pod.get("volumes", ())} | {
        v["metadata"]["name"] for v in workload["spec"].get("volumeClaimTemplates", ())
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        ports = {port["name"] for port in container["ports"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(name, {})
            port = probe.get("httpGet", probe.get("tcpSocket", {})).get("port")
            assert port is None or port in ports


@pytest.fixture(scope="module")
def training() -> dict[str, dict[str, Any]]:
    text = (SERVING / "kubernetes" / "training.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.mark.parametrize("index", [0, 1])
def test_training_pods_name_each_other_and_call_a_command_that_exists(training, index):
    from tfrec_limaml.cli import build_parser

    job, service = training["Job"]["spec"], training["Service"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    (workers,) = (e["value"] for e in container["env"] if e["name"] == "WORKERS")
    assert job["completions"] == job["parallelism"] == int(workers)
    assert job["completionMode"] == "Indexed"
    assert pod["subdomain"] == service["metadata"]["name"] == training["Job"]["metadata"]["name"]
    assert service["spec"]["selector"] == job["template"]["metadata"]["labels"]
    script = container["args"][0].replace("exec limaml", 'printf "%s\n" "$TF_CONFIG"; echo')
    environment = {
        "WORKERS": workers,
        "JOB_COMPLETION_INDEX": str(index),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [*container["command"], script], env=environment, check=True, capture_output=True, text=True
    )
    config, command = done.stdout.splitlines()
    port = container["ports"][0]["containerPort"]
    name = service["metadata"]["name"]
    assert json.loads(config) == {
        "cluster": {"worker": [f"{name}-{i}.{name}:{port}" for i in range(int(workers))]},
        "task": {"type": "worker", "index": index},
    }
    arguments = build_parser(["train"]).parse_args(command.split())
    assert (arguments.distribute, arguments.resume) == ("multi-worker", True)


def test_training_pods_have_no_privileges_and_reach_each_other_only(training):
    pod = training["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"][:1]]
    assert claims == [training["PersistentVolumeClaim"]["metadata"]["name"]]
    policy, port = training["NetworkPolicy"]["spec"], container["ports"][0]["containerPort"]
    assert policy["podSelector"]["matchLabels"] == {"app": "training"}
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"port": port}]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl; it renders offline")
def test_kustomize_renders_everything_into_one_namespace():
    text = subprocess.run(
        ["kubectl", "kustomize", str(SERVING)], check=True, capture_output=True, text=True
    ).stdout
    documents = [d for d in yaml.safe_load_all(text) if d["kind"] != "Namespace"]
    assert {d["metadata"]["namespace"] for d in documents} == {"limaml"}
    (config,) = (d for d in documents if d["kind"] == "ConfigMap")
    assert config["metadata"]["name"] == "ranker-config"
    assert set(config["data"]) == {"models.config", "monitoring.config", "batching.config"}
