"""What is kept of past batches, and of the policies that collected them."""
