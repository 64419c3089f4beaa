"""What an operator does under the lock: amend the ledger, roll back, rehearse."""
