"""Views of finished and running studies, which read ledgers only, and of diagnoses, which read their rows."""
