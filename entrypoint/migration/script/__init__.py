"""One migration file's text: its name, its statements, what it says about itself. Needs no database."""
