"""The process side of agentd: the spawner, the zygote, workers and their add-ons."""
