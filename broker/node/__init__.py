"""One running instance: a store and a hub, joined.

node        what the web layer calls: publish, look, start and stop
streams     the open streams: how they begin and how they end
evictions   ends the streams of those that may stay no longer
limits      connections and publishes by address and by subject
instances   sends commands to all instances, and carries out what arrives
commands    what instances tell each other
gauges      metrics that are read when somebody asks
"""
