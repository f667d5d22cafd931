"""What a configuration may hold, known without importing torch."""
