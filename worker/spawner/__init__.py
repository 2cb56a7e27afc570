"""The spawner: parent and subreaper of all workers. Standard library only; mechanisms, no policy."""
