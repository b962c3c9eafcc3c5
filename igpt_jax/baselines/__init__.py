"""What the GPT is compared with: a convolutional GAN and a VAE, trained by the same loop."""
