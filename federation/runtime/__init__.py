"""The process around a role: clock, logs, configuration file, child processes. It knows no certificates."""
