"""Measures of what a model learned and of what it draws."""
