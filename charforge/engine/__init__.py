"""The engine: actions, digests, a store, traces, and a build loop. It knows nothing of characters or models.

Nothing in this folder imports anything of the package outside it.
"""
