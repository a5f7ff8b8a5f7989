"""``limaml stream --as-pipeline`` with an expansion service of Beam 2.50: the libraries of newer
ones cannot be had from every registry. It does not know the settings that the installed release's
reader has beside these; all of them stay at their defaults.
"""

import logging
import sys
from typing import Any, NamedTuple, get_type_hints

from apache_beam.io import kafka

from tfrec_limaml.cli import main

KNOWN = (
    "consumer_config",
    "topics",
    "key_deserializer",
    "value_deserializer",
    "start_read_time",
    "max_num_records",
    "max_read_time",
    "commit_offset_in_finalize",
    "timestamp_policy",
)


def leave_out_later_settings() -> None:
    types = get_type_hints(kafka.ReadFromKafkaSchema)
    reduced = NamedTuple("Reduced", [(name, types[name]) for name in KNOWN])

    def make(**given: Any) -> Any:
        return reduced(**{name: given[name] for name in KNOWN})

    kafka.ReadFromKafkaSchema = make


if __name__ == "__main__":
    logging.basicConfig()
    logging.getLogger("FlinkJarJobServer").setLevel(logging.INFO)  # the job server's lines
    leave_out_later_settings()
    sys.exit(main(sys.argv[1:]))
