"""The endpoints, one kind a file."""
