"""The HTTP layer (contract §2 to §6): handlers on plain values that call the node; the server that runs them
(`front`), and their adapter to aiohttp (`aiohttp_adapter`)."""
