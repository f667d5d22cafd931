"""What a run wrote, read back: advice, figures and the page that holds them."""
