"""Stable attention aggregation: the marginal of a joint softmax."""
