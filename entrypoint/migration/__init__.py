"""Migrations: the files, the ledger, the plan, the lock, and applying what is pending."""
