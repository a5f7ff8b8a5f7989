"""The global block of two task definitions against its formula."""

import numpy as np

from tfrec_limaml.blocks import BilinearGlobalBlock


def test_the_head_is_the_formula_also_if_one_embedding_is_for_all_rows():
    random = np.random.default_rng(3)
    features = {
        "meta": random.normal(size=(4, 2)).astype("f"),
        "other": random.normal(size=(4, 3)).astype("f"),
    }
    block = BilinearGlobalBlock((5,))
    block.build({"meta": (None, 2), "other": (None, 3)}, (None, 6))
    block.scale.assign([0.3, -0.7])
    context = block.encode_context(features)
    logit, projection = np.array(context[0]), np.array(context[1])
    p, q = projection[:, :2], projection[:, 2:4]
    first, second = random.normal(size=(2, 4, 3)).astype("f")

    def expected(first, second):
        u, a, v, b = first[:, :2], first[:, 2], second[:, :2], second[:, 2]
        products = p * u + q * v + np.array([0.3, -0.7]) * u * v
        return logit + products.sum(1) + a + b

    both = np.concatenate([first, second], 1)
    np.testing.assert_allclose(block.head(context, both), expected(first, second), atol=1e-6)
    for one, other in ((first[:1], second), (first, second[:1])):
        logits = block.head_of_parts(context, [one, other], 4)
        np.testing.assert_allclose(logits, expected(one, other), atol=1e-6)
