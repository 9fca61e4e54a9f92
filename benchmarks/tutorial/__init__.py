"""docs/tutorial.md as a program: its commands run, their output compared with the page, its parts timed."""
