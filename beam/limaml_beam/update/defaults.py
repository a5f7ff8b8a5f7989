"""Default settings of updates and streams, which commands and Python share."""

from __future__ import annotations

#: Rows at most this far in the future are used (seconds).
CLOCK_SKEW_SECONDS = 300.0
#: Time after which a stream without new rows checks for updated tasks whose rows left the window.
EXPIRE_SECONDS = 60.0
#: Time between two checks of a folder.
POLL_SECONDS = 1.0
#: Consumer group of Kafka.
GROUP = "limaml"
#: A micro-batch waits this long after its first message, and holds at most this many.
BATCH_SECONDS = 1.0
BATCH_MESSAGES = 10_000
