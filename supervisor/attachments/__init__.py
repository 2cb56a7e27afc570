"""Files that users upload for agents: received, read in a process of their own each, kept and given to turns."""
