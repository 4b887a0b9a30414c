"""Text on request, for the console and the server."""
