"""A page to ask trained runs about a clip; its library is imported by nothing else."""
