#!/usr/bin/env python3
"""Builds a job server with an embedded Flink or Spark, or a Kafka broker, in a folder, with Maven.

    python beam/job_servers/make_job_server.py flink build/flink

This is not needed if Maven Central is reachable: Beam's FlinkRunner and SparkRunner fetch their
job servers by themselves. Some mirrors lack the ready-made job servers (each is a few hundred
megabytes), but have their libraries. This script downloads Beam's own job server if it is
available, otherwise the libraries of flink.xml or spark.xml, and adds a manifest. Kafka's broker is
built from the libraries in kafka.xml, and a Flink job server that reads from Kafka from those in
flink-kafka.xml.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

JAR = "job-server.jar"


class Engine(NamedTuple):
    """A server to build.

    Attributes:
        ready_made: Maven coordinates of Beam's own job server; None if there is none.
        main: Main class.
        opened: Packages of java.base that the engine accesses by reflection; Java 17 allows it only
            with a manifest entry or a flag.
    """

    ready_made: str | None
    main: str
    opened: tuple[str, ...]


_BOTH = ("java.io", "java.lang", "java.lang.invoke", "java.lang.reflect", "java.net", "java.nio")
_BOTH += ("java.util", "java.util.concurrent", "java.util.concurrent.atomic")
ENGINES = {
    "flink": Engine(
        "org.apache.beam:beam-runners-flink-1.20-job-server:2.77.0",
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        (*_BOTH, "java.text", "java.time", "java.util.concurrent.locks"),
    ),
    "spark": Engine(
        "org.apache.beam:beam-runners-spark-3-job-server:2.77.0",
        "org.apache.beam.runners.spark.SparkJobServerDriver",
        (*_BOTH, "sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar"),
    ),
    "kafka": Engine(None, "kafka.Kafka", ()),
    "flink-kafka": Engine(
        None,
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        (*_BOTH, "java.text", "java.time", "java.util.concurrent.locks"),
    ),
}


def make(engine: str, folder: Path) -> Path:
    """Builds the jar of an engine's job server, or of the broker, unless it exists.

    Returns:
        Its path, for example for ``--flink_job_server_jar``.
    """
    jar = folder / JAR
    if not jar.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if not fetch_ready_made(ENGINES[engine].ready_made, folder):
            assemble(engine, folder)
    return jar


def fetch_ready_made(artifact: str | None, folder: Path) -> bool:
    """Downloads Beam's own job server; False if the registry has none."""
    if artifact is None:
        return False
    copy = [
        "dependency:copy",
        f"-Dartifact={artifact}",
        f"-DoutputDirectory={folder}",
        "-Dmdep.stripVersion=true",
    ]
    if maven(*copy, "-Dtransitive=false") != 0:
        return False
    _, name, _ = artifact.split(":")
    (folder / f"{name}.jar").rename(folder / JAR)
    return True


def assemble(engine: str, folder: Path) -> None:
    """Downloads the libraries and writes a jar that only names them."""
    libraries, pom = folder / "lib", Path(__file__).with_name(f"{engine}.xml")
    if maven(
        "-f",
        str(pom),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={libraries.resolve()}",
        "-DincludeScope=runtime",
    ):
        raise SystemExit(
            f"make_job_server: Maven could not fetch the libraries named in {pom.name}; run it by "
            "hand with -f to see why"
        )
    entries = {
        "Manifest-Version": "1.0",
        "Main-Class": ENGINES[engine].main,
        "Class-Path": " ".join(f"lib/{path.name}" for path in sorted(libraries.glob("*.jar"))),
        "Add-Opens": " ".join(f"java.base/{package}" for package in ENGINES[engine].opened),
    }
    partial = folder / f"{JAR}.partial"
    with zipfile.ZipFile(partial, "w") as jar:
        jar.writestr(
            "META-INF/MANIFEST.MF",
            "".join(manifest_line(*entry) for entry in entries.items()) + "\r\n",
        )
    partial.rename(folder / JAR)


def manifest_line(name: str, value: str) -> str:
    """One attribute of a manifest: at most 72 bytes per line; further lines begin with a space."""
    first, rest = f"{name}: {value}"[:70], f"{name}: {value}"[70:]
    return "\r\n ".join([first, *(rest[at : at + 69] for at in range(0, len(rest), 69))]) + "\r\n"


def maven(*arguments: str) -> int:
    """Runs Maven without its output; returns its exit code."""
    return subprocess.run(
        ["mvn", "--batch-mode", "--quiet", *arguments], check=False, stdout=subprocess.DEVNULL
    ).returncode


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("folder", type=Path, help="folder for the jar")
    arguments = parser.parse_args()
    sys.stdout.write(f"{make(arguments.engine, arguments.folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
