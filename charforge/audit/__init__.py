"""The audit: what of a lock is proven by the bytes at hand, what is not, and where the first difference lies."""
