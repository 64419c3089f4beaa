"""Another migration tool under our lock: what it reads, whether it has anything to do, and how it is run and kept."""
