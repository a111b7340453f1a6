"""The demo page and its server."""
