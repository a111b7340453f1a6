"""The demo page, which runs a model in the browser, and its server."""
