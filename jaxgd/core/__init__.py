"""What is computed, and nothing of the host: the loss, the loop, its verdict."""
