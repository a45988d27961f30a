"""What the recipes share: options, models, data, losses, the run and its record."""
