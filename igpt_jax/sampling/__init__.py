"""Drawing new tokens from a GPT: logits policies and the compiled sampler."""
