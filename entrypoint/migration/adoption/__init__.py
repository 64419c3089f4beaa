"""What another tool's own table says is applied, and which of our files that is."""
