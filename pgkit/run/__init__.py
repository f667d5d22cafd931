"""What belongs to a run and not to learning: folder, seeds, records, checkpoints, what a person sees."""
