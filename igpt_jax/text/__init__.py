"""A sentence in: caption cleaning, the text tokenizer and the frozen T5 encoder."""
