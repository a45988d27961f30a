"""A study, from its plan and its rows to verdicts and to what has to be said aloud. No file is touched here."""
