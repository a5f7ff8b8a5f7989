"""Pipeline 2: task records to meta embeddings, and one generation in the store."""
