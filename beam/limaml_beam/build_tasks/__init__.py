"""Pipeline 1: labelled interactions and feature tables to task records, statistics and a data
card.
"""
