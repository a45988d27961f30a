"""Is one optimizer better than another on these data? A plan becomes a fixed list of runs, and they become a study."""
