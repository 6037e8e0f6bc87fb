"""`bros chat`: real-time questions, in a conversation or one at a time."""
