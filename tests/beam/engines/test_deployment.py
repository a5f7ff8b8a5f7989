"""The container and the template, as far as they can be checked without Docker and Dataflow."""

import argparse
import json
import re
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from limaml_beam.commands.beam_flags import wrap_beam_flags
from limaml_beam.commands.embed_arguments import add_arguments


@pytest.fixture
def instructions(checkout: Path) -> list[tuple[str, str]]:
    """(instruction, rest) of every instruction of the Dockerfile."""
    lines = [
        line
        for line in (checkout / "beam" / "Dockerfile").read_text().splitlines()
        if not line.startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()
    ]


@pytest.fixture
def parameters(checkout: Path) -> dict[str, dict[str, object]]:
    metadata = json.loads((checkout / "beam" / "flex_template_metadata.json").read_text())
    return {parameter["name"]: parameter for parameter in metadata["parameters"]}


def test_the_image_holds_the_beam_release_that_the_constraints_pin(instructions, checkout):
    assert ("ARG", f"BEAM_VERSION={version('apache-beam')}") in instructions
    assert f"apache-beam=={version('apache-beam')}" in (checkout / "constraints.txt").read_text()


def test_every_file_that_the_image_copies_exists(instructions, checkout):
    copied = [
        source
        for name, rest in instructions
        for source in rest.split()[:-1]
        if name == "COPY" and not rest.startswith("--from")
    ]
    assert copied
    for source in copied:
        assert (checkout / source).exists(), source


def test_the_image_installs_what_was_copied_with_pinned_dependencies_and_starts_beams_boot(
    instructions,
):
    (install,) = (rest for name, rest in instructions if name == "RUN")
    assert "--constraint constraints.txt" in install
    assert "pip check" in install
    assert instructions[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')
    assert not [name for name, _ in instructions if name == "ADD"]


def test_every_parameter_of_the_template_is_an_option_of_the_command(parameters):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = {
        option.lstrip("-"): action.required
        for action in parser._actions
        for option in action.option_strings
    }
    named = {
        name: parameter["isOptional"] for name, parameter in parameters.items() if name != "tasks"
    }
    assert set(named) <= set(options)
    assert {name for name, optional in named.items() if not optional} == {
        name for name, required in options.items() if required
    }


def test_what_the_launcher_takes_is_what_launching_alone_takes(parameters):
    # A store is published to when the job is done, and the launcher is gone by then.
    assert "store" not in parameters
    assert {"finish", "launch-only", "overwrite"}.isdisjoint(parameters)


def test_the_launcher_turns_parameters_into_the_commands_arguments(load_deployed):
    arguments = load_deployed("flex_launcher.py").arguments_of(
        ["--tasks=T", "--export=E", "--output=O", "--runner=DataflowRunner"]
    )
    assert wrap_beam_flags(add_arguments, arguments) == [
        "T",
        "--launch-only",
        "--beam=--no_save_main_session",
        "--export=E",
        "--output=O",
        "--beam=--runner=DataflowRunner",
    ]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("output", "gs://b/out", "/tmp/out"), ("max-bad-fraction", "0.05", "2")],
)
def test_the_templates_patterns_take_and_refuse(parameters, name, good, bad):
    (pattern,) = parameters[name]["regexes"]
    assert re.match(pattern, good)
    assert not re.match(pattern, bad)


@pytest.mark.parametrize(
    ("engine", "main"), [("flink", "FlinkJobServerDriver"), ("spark", "SparkJobServerDriver")]
)
def test_the_job_servers_manifest_names_every_library_in_lines_that_java_reads(
    load_deployed, tmp_path, monkeypatch, engine, main
):
    script = load_deployed("job_servers/make_job_server.py")
    (tmp_path / "lib").mkdir()
    names = [f"library-{n:03d}.jar" for n in range(40)]
    for name in names:
        (tmp_path / "lib" / name).touch()
    monkeypatch.setattr(script, "maven", lambda *_: 0)
    script.assemble(engine, tmp_path)
    with zipfile.ZipFile(tmp_path / "job-server.jar") as jar:
        manifest = jar.read("META-INF/MANIFEST.MF").decode()
    assert max(map(len, manifest.split("\r\n"))) <= 72
    entries = dict(
        line.split(": ", 1) for line in manifest.replace("\r\n ", "").strip().split("\r\n")
    )
    assert entries["Class-Path"].split() == [f"lib/{name}" for name in names]
    assert entries["Main-Class"].endswith(main)
