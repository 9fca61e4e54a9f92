"""Where arrays live and work runs: devices, stores on disk, workers, progress."""
