"""What `igpt evaluate` and `igpt probe` do with a run; the measures themselves are `evaluation`."""
