"""A generation of four keys."""

import numpy as np

KEYS = ["a", "b", "ü|7", "d"]


def write(store, values, version=1, keys=KEYS, identifier=None):
    matrix = np.broadcast_to(np.asarray(values, np.float32).reshape(-1, 1), (len(keys), 3))
    with store.new_generation(version, 3, identifier) as writer:
        writer.put(keys, matrix)
        return writer.publish(len(keys))
