"""The control server of agentd: policy, HTTP, the command line."""
