"""What only experiments need: configs, data, tasks, checkpoints, plots."""
