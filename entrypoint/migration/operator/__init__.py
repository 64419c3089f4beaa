"""Operators' commands that need the lock: amend the ledger, roll back, rehearse."""
