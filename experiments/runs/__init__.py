"""A run's folder: how it is written (`folder`, `checkpoint`) and read (`open`)."""
