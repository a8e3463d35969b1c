"""Files and disks that may hang, reached from an event loop: in daemon threads, bounded in time and size."""
