"""The HTTP face (contract §2 to §6): aiohttp handlers that call the node."""
