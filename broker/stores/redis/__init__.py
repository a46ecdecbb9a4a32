"""The store for more than one process or machine: a Redis (6.2 or later) or Valkey server.

address    where the server is                         scripts, lua/   what runs inside it
link       one connection                              names           keys and channels
calls      calls of scripts, in order, retried         messages        what scripts say, as values
listener   what is said on channels                    copies          this instance's copies of watched logs
filling    reads what copies lack                      presence        subscribers over all instances
store      all of it, as `stores.base.Store`
"""
