"""Turns: one request to an agent each, the events it answers, and the sessions they belong to."""
