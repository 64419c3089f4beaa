"""A migration file as text: its name, its statements, its directives. Needs no database."""
