"""What runs in the next iteration. Pure: time is an argument."""
