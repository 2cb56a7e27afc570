"""The HTTP side: TEN's API and the native channel API (docs/http.md)."""
