"""Experiments with `jaxrnn`: commands on top, what they are made of in the folders."""
