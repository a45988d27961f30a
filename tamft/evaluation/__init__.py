"""Scoring models on MTEB tasks. It meets `tamft.train` only through files: model folders and run.json."""
