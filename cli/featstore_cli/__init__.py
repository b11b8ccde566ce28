"""The `featstore` command: parses, calls one library function, renders what comes back."""
