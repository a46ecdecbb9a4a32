"""The store for more than one process or machine: a Redis (6.2 or later) or Valkey server.

address, link, connector, pubsub, connections       connections to the server
names, scripts and lua/, formats                    keys and channels, scripts, their replies and payloads
script_pipeline, commands, broadcast, counters      calls
replica, replicas, watermark, catch_up, receiver    this instance's logs, kept up to date
watches, delivery                                   their subscribers
housekeeping, task_owner, options, store            the store as a whole
"""
