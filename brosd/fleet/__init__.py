"""The daemon's child processes: devices, workers, supervision, placement of requests."""
