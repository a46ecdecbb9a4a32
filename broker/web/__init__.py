"""The HTTP layer (contract §2 to §6): handlers on plain values that call the node, and their adapter to aiohttp."""
