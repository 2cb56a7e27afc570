"""What survives the process: conversations, agents' state, the ledger of channels (docs/store.md)."""
