"""A run folder as tables, pictures and one HTML page. Matplotlib loads when something is drawn."""
