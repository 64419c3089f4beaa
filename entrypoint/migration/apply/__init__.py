"""Applying what is pending, while holding the lock."""
