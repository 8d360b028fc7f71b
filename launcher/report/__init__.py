"""A run's page: its figures and curves in one HTML file."""
