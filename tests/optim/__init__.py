"""The optimizers' laws, over all classes, options and paths."""
