"""What is trained on and scored: MNIST, and any picture file."""
