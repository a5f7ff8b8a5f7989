"""The daily job: build task records, adapt the changed tasks, check, publish or refuse."""
