"""Input and output on any Beam filesystem, and reports, progress and errors of runs."""
