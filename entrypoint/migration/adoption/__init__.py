"""What another tool's own table says is applied, and to which of our files that belongs."""
