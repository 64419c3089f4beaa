"""Applying what is pending, under the lock."""
