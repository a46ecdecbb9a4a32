"""From the logs to the sockets. Nothing here waits for a subscriber (I3).

hub             the subscribers of an instance: how they come, and how they go
fanout          brings subscribers to the end of the logs that they read
feed            a merge of logs, cut into pieces for subscribers
feed_table      the feeds with their subscribers, and what the logs must keep for them
subscriber      one subscriber: a cursor and a socket
sweeper         heartbeats, stuck connections, maximum age
batches         acts on many subscribers, in batches
backpressure    publishers wait here while too much is on its way
owner           protocols of what the hub needs from outside
"""
