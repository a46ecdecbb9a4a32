"""From the logs to the sockets. Nothing here waits for a subscriber (I3).

hub             the subscribers of an instance: how they come, and how they go
fanout          brings subscribers to the end of the logs that they read
feed            what subscribers are written: a merge of logs, in pieces
feed_table      the feeds with their subscribers, and what the logs must keep for them
subscriber      one subscriber: a cursor and a socket
sweeper         heartbeats, stuck connections, maximum age
batches         acts on many subscribers, a batch a turn of the loop
backpressure    where publishers wait while too much is on its way
owner           what all of this needs from outside
"""
