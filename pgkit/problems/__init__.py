"""Problems: an expectation, where its parameters start, and what is known exactly about it."""
