"""Weights, modules and files of other libraries. Each library is imported when used."""
