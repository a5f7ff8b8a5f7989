"""Task building: interactions and feature tables to task records, statistics and a data card."""
