"""Options of the Java virtual machine in tests."""

#: A Java process that runs for seconds spends most of them in its compiler.
QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
