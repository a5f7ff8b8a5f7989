"""The embedding job: task records to meta embeddings, and one generation in the store."""
