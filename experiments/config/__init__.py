"""Configs: what a file may hold (`schema`), and how it is read (`load`)."""
