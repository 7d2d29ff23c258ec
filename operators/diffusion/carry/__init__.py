"""What a frame takes over from earlier ones beside their latent: cells that are held, motion that is followed, attention that remembers."""
