"""One running instance: a store and a hub, joined; who is let in, and who must go."""
