"""Make a release and check it: `make dist`, `make audit`, `make publish`. docs/releasing.md says how and when."""
