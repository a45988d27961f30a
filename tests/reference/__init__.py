"""Slow float64 references: numpy only, no code shared with tamft."""
