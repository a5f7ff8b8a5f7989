"""Pipeline 1: interactions and feature tables to task records, statistics and a data card."""
