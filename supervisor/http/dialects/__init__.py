"""The published APIs a turn can come by, one translator each, and the one handler that does their I/O."""
