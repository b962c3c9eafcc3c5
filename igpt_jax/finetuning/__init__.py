"""A pre-trained GPT learns to tell classes apart."""
