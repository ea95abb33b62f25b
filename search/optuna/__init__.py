"""What is shared with Optuna: its distributions, and the mirror of a sweep in its terms."""
