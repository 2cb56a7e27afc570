"""The supervisor's side of processes: the spawner's client, the pipes, the logs, the records."""
