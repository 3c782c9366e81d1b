"""A run folder as tables, plots and one HTML page. Matplotlib loads when something is drawn."""
