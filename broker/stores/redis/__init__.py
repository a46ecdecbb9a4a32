"""The store for more than one process or machine: a Redis (6.2 or later) or Valkey server.

The server                             Its connections
  address      where it is               link             one open connection
  scripts      the Lua scripts, lua/     connector        keeps one for calls
  names        keys and channels         script_pipeline  calls over it, in order, retried
  replies      of scripts, decoded       pubsub           keeps one for pub/sub
  payloads     of channels, decoded      connections      all three, to the same server

This instance's logs                   The rest of the store
  replica      of one topic's log        commands         publish, close, describe …
  replicas     all of them               broadcast        commands to all instances
  catch_up     reads missing entries    counters         counts over all instances
  receiver     handles pub/sub           housekeeping     regular work of any instance
  watches      topics with subscribers   task_owner       the tasks
  delivery     to the store's owner      store            all parts, as `stores.base.Store`
  watermark    an id that only rises     options          the settings it needs
"""
