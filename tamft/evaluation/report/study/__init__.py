"""The report of a study that `tamft compare` has made: page, Markdown, CSV, JSONL and figures, from two files alone."""
