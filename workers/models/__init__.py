"""Models on disk: where they are, how they come there, what shape they have."""
