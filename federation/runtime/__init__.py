"""The process around a role: clock, logs, configuration files, child processes. Knows nothing of certificates."""
