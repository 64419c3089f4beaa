"""What the tests look with: processes from outside, databases, a proxy that fails on demand, migrations."""
