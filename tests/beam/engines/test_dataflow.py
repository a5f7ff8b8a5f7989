"""The Dataflow job as it would be submitted: built by Beam's own runner up to the request, without
a network.
"""

import base64
import bz2
import contextlib
import dataclasses
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import apache_beam as beam
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

from limaml_beam.build_tasks import pipeline as build_tasks
from limaml_beam.build_tasks.inputs import Inputs
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.__main__ import main
from limaml_beam.generate_embeddings.artefacts import read_manifest
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob, GenerateEmbeddings, write_results

IMAGE = "europe-docker.pkg.dev/project/limaml/worker:0.2.0"
MOST_PICKLED_BYTES = 200_000


@dataclasses.dataclass(frozen=True)
class Template:
    """A job that Beam wrote down instead of submitting."""

    job: dict[str, Any]
    graph: beam_runner_api_pb2.Pipeline
    staged: Path

    def options(self) -> dict[str, Any]:
        return self.job["environment"]["sdkPipelineOptions"]["options"]

    def pickled(self) -> dict[str, int]:
        """Bytes of every step's payload, which holds its pickled function."""
        return {
            transform.unique_name: len(transform.spec.payload)
            for transform in self.graph.components.transforms.values()
        }


@pytest.fixture(scope="module")
def source(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what setup.py packs: building leaves files behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(checkout / name, folder)
    for name in ("tfrec_limaml", "beam", "serving"):
        shutil.copytree(
            checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def stage(folder: Path, name: str, stream: IO[bytes]) -> None:
    (folder / name).write_bytes(stream.read())


def flags_for(folder: Path, source: Path) -> list[str]:
    return [
        *(source / "beam" / "dataflow.flags").read_text().split(),
        "--project=project",
        "--region=europe-west1",
        "--no_auth",
        "--job_name=limaml-embed",
        "--temp_location=gs://bucket/temp",
        "--staging_location=gs://bucket/staging",
        f"--template_location={folder}/job.json",
        f"--sdk_container_image={IMAGE}",
        "--setup_file=./setup.py",
    ]


@contextlib.contextmanager
def without_a_network(folder: Path, source: Path) -> Iterator[None]:
    """What would be uploaded goes to a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source)
        # The one question about the bucket that is asked before there is a job.
        patch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)
        patch.setattr(
            DataflowApplicationClient,
            "stage_file",
            lambda _, __, name, stream, *___: stage(folder, name, stream),
        )
        yield


def write_template(folder: Path, source: Path, construct: Any) -> Template:
    with without_a_network(folder, source):
        pipeline = beam.Pipeline(options=PipelineOptions(flags_for(folder, source)))
        construct(pipeline)
        pipeline.run()
    graph = beam_runner_api_pb2.Pipeline.FromString((folder / "pipeline.pb").read_bytes())
    return Template(json.loads((folder / "job.json").read_text()), graph, folder)


@pytest.fixture(scope="module")
def embedding_template(tmp_path_factory, source, adapter) -> Template:
    """The embedding job, incremental: the graph with every branch."""
    folder = tmp_path_factory.mktemp("embedding")
    previous = folder / "previous"
    previous.mkdir()
    (previous / f"{tables.EMBEDDINGS_PREFIX}-00000-of-00001.parquet").touch()
    job = EmbeddingJob(
        tasks="gs://bucket/tasks",
        adapter=str(adapter),
        output="gs://bucket/out",
        generation="g",
        previous=str(previous),
    )

    def construct(pipeline: beam.Pipeline) -> None:
        paths = ["gs://bucket/tasks/user/recent-00000-of-00001.tfrecord.gz"]
        found = pipeline | beam.Create(paths) | GenerateEmbeddings(job, read_manifest(job.adapter))
        write_results(found, "gs://bucket/out.launched")

    return write_template(folder, source, construct)


@pytest.fixture(scope="module")
def tasks_template(tmp_path_factory, source, shop_schema, shop_frames, write_raw) -> Template:
    folder = tmp_path_factory.mktemp("tasks")
    raw = write_raw(folder / "raw", shop_schema, shop_frames())
    paths = {name: str(raw / f"{name}.parquet") for name in ("interactions", *shop_schema.tables)}
    inputs = Inputs.find(shop_schema, paths.pop("interactions"), paths)
    settings = TaskSettings(definitions=tuple(shop_schema.tasks), **date_fields(shop_schema))
    return write_template(
        folder,
        source,
        lambda pipeline: build_tasks.construct(
            pipeline, shop_schema, settings, inputs, FileSystems.join(str(folder), "out")
        ),
    )


@pytest.fixture(params=["embedding_template", "tasks_template"])
def template(request: pytest.FixtureRequest) -> Template:
    return request.getfixturevalue(request.param)


def test_every_step_runs_in_the_one_container_that_was_named(template):
    (pool,) = template.job["environment"]["workerPools"]
    images = {image["containerImage"] for image in pool["sdkHarnessContainerImages"]}
    assert images == {IMAGE}
    used = {
        template.graph.components.environments[t.environment_id].payload
        for t in template.graph.components.transforms.values()
    } - {b""}
    assert {
        beam_runner_api_pb2.DockerPayload.FromString(payload).container_image for payload in used
    } <= {IMAGE}
    assert (pool["machineType"], pool["autoscalingSettings"]["maxNumWorkers"]) == (
        "n2-standard-4",
        20,
    )


def test_the_job_is_a_batch_job(template):
    assert template.job["environment"]["version"]["job_type"] == "FNAPI_BATCH"


def test_the_staged_source_holds_all_three_import_packages(template):
    names = [
        package["name"] for package in template.job["environment"]["workerPools"][0]["packages"]
    ]
    assert "workflow.tar.gz" in names
    with tarfile.open(template.staged / "workflow.tar.gz") as archive:
        files = {member.split("/", 1)[1] for member in archive.getnames() if "/" in member}
    assert {"setup.py", "pyproject.toml", "README.md", "tfrec_limaml/store/base.py"} <= files
    assert {
        "beam/limaml_beam/generate_embeddings/adapter.py",
        "serving/limaml_serving/client/ranker.py",
    } <= files


def test_nothing_of_the_main_session_is_pickled(template):
    names = [
        package["name"] for package in template.job["environment"]["workerPools"][0]["packages"]
    ]
    assert not [name for name in names if "session" in name]
    assert not template.options()["save_main_session"]


def test_no_step_carries_anything_heavy(template):
    sizes = template.pickled()
    assert len(sizes) > 20
    heaviest = max(sizes, key=sizes.__getitem__)
    assert sizes[heaviest] < MOST_PICKLED_BYTES, heaviest


def test_workers_are_told_where_the_adapter_lies_and_not_given_it(embedding_template, adapter):
    (step,) = (
        t
        for t in embedding_template.graph.components.transforms.values()
        if t.unique_name.endswith("/BeamML_RunInference")
    )
    pickled = bz2.decompress(
        base64.b64decode(
            beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload).do_fn.payload
        )
    )
    assert str(adapter).encode() in pickled
    assert len(pickled) < MOST_PICKLED_BYTES


def test_the_counts_are_written_when_all_else_is(embedding_template):
    """Where the counts lie, a launched job is done: their step waits for the names of all written
    files.
    """
    steps = {
        transform.unique_name: transform
        for transform in embedding_template.graph.components.transforms.values()
    }
    (write,) = (step for name, step in steps.items() if name.endswith("WriteCounts/Write"))
    assert len([name for name in write.inputs if name.startswith("python_side_input")]) == 2


def test_the_flex_templates_launcher_writes_the_job_down_and_returns(
    tmp_path, source, adapter, tasks, load_deployed, capsys
):
    output = tmp_path / "out"
    parameters = [f"--tasks={tasks}", f"--export={adapter.parents[1]}", f"--output={output}"]
    arguments = load_deployed("flex_launcher.py").arguments_of(
        [*parameters, *flags_for(tmp_path, source)]
    )
    with without_a_network(tmp_path, source):
        assert main([*arguments, "--json"]) == 0
    launched = json.loads(capsys.readouterr().out)
    assert launched["launched"] == f"{output}.launched"
    record = json.loads((tmp_path / "out.launched" / "launch.json").read_text())
    assert record["generation"] == launched["generation"]
    job = json.loads((tmp_path / "job.json").read_text())
    assert (
        job["environment"]["workerPools"][0]["sdkHarnessContainerImages"][0]["containerImage"]
        == IMAGE
    )
    assert not output.exists()
