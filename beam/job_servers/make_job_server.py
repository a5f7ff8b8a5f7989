#!/usr/bin/env python3
"""Puts a Flink job server with an embedded Flink cluster into a folder, by Maven.

    python beam/flink/make_job_server.py build/flink

With Maven Central in full reach nobody needs this: Beam's FlinkRunner fetches its job server by
itself. Some mirrors leave the ready-made job servers out (each is a few hundred megabytes), yet
hold the libraries that they are made of. This takes Beam's own job server where it can be had, else
the libraries that pom.xml names, with a manifest around them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
READY_MADE = "org.apache.beam:beam-runners-flink-1.20-job-server:2.77.0"
JAR = "job-server.jar"

# Flink 1.16 looks into these by reflection; Java 17 allows it only where a manifest or a flag says
# so.
OPENED = (
    *("io", "lang", "lang.invoke", "lang.reflect", "net", "nio", "text", "time"),
    *("util", "util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"),
)


def make(folder: Path) -> Path:
    """Returns the path of a jar for ``--flink_job_server_jar``; nothing to do where it is there
    already.
    """
    jar = folder / JAR
    if not jar.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if not fetch_ready_made(folder):
            assemble(folder)
    return jar


def fetch_ready_made(folder: Path) -> bool:
    """Fetches Beam's own job server; False where the registry has none."""
    copy = [
        "dependency:copy",
        f"-Dartifact={READY_MADE}",
        f"-DoutputDirectory={folder}",
        "-Dmdep.stripVersion=true",
    ]
    if maven(*copy, "-Dtransitive=false") != 0:
        return False
    _, name, _ = READY_MADE.split(":")
    (folder / f"{name}.jar").rename(folder / JAR)
    return True


def assemble(folder: Path) -> None:
    """Fetches the libraries and writes a jar that only names them."""
    libraries = folder / "lib"
    if maven(
        "-f",
        str(POM),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={libraries.resolve()}",
        "-DincludeScope=runtime",
    ):
        raise SystemExit(
            "make_job_server: Maven could not fetch the libraries named in pom.xml; run it by "
            "hand with -f to see why"
        )
    entries = {
        "Manifest-Version": "1.0",
        "Main-Class": "org.apache.beam.runners.flink.FlinkJobServerDriver",
        "Class-Path": " ".join(f"lib/{path.name}" for path in sorted(libraries.glob("*.jar"))),
        "Add-Opens": " ".join(f"java.base/java.{package}" for package in OPENED),
    }
    partial = folder / f"{JAR}.partial"
    with zipfile.ZipFile(partial, "w") as jar:
        jar.writestr(
            "META-INF/MANIFEST.MF",
            "".join(manifest_line(*entry) for entry in entries.items()) + "\r\n",
        )
    partial.rename(folder / JAR)


def manifest_line(name: str, value: str) -> str:
    """One attribute; lines of a manifest hold at most 72 bytes, the rest follows after a blank."""
    first, rest = f"{name}: {value}"[:70], f"{name}: {value}"[70:]
    return "\r\n ".join([first, *(rest[at : at + 69] for at in range(0, len(rest), 69))]) + "\r\n"


def maven(*arguments: str) -> int:
    """Runs Maven quietly."""
    return subprocess.run(
        ["mvn", "--batch-mode", "--quiet", *arguments], check=False, stdout=subprocess.DEVNULL
    ).returncode


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the jar is made")
    sys.stdout.write(f"{make(parser.parse_args().folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
