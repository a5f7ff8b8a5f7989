"""The fixtures of `embedding_fixtures`."""

from embedding_fixtures import (  # noqa: F401
    encode,
    export,
    make_rows,
    object_store,
    schema,
    upload,
    write_tasks,
)
