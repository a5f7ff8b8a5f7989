"""The demo: every stage of the loop through its command, then one member's ranked list as text and
charts.
"""
