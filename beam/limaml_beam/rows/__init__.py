"""Blocks of rows as Arrow tables: values, joins and shuffles."""
