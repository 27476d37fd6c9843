"""Views of finished and running studies. Reads ledgers only."""
