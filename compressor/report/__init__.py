"""How a report is shown: tables in the terminal, and a page."""
