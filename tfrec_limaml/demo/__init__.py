"""The demo: runs each stage of the loop by its command, then ranks one member's candidates."""
