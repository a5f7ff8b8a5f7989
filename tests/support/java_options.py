"""Options of Java machines in tests."""

#: A Java machine that runs for seconds spends most of them on its own compiler.
QUICK_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
