"""The daily job: build task records, adapt what changed, check, publish or refuse."""
