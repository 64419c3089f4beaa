"""The tests' helpers: processes seen from outside, databases, a proxy that fails on demand, migrations."""
