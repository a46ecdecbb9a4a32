"""One running instance: a store and a hub, joined.

node        start, stop, publish, list topics
streams     the open streams: how they begin and how they end
evictions   ends streams that may no longer stay
passes      merges orders to end streams
limits      connections and publishes by address and by subject
buckets     their rates
instances   sends commands to all instances, and carries out those that arrive
commands    the commands themselves, and their text
gauges      metrics that are read on request
"""
