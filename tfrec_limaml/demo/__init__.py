"""The demo: every stage of the loop through its command, then one member's list in words and
pictures.
"""
