"""What people look at in a report: plots, galleries, masks side by side."""
