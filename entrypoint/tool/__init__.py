"""Run another migration tool under our lock: what it reads, how it is started, and how it reaches the server."""
