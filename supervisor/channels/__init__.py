"""Channels: their lifecycle, their leases, and the table that holds them."""
