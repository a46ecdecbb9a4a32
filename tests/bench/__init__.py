"""Tests of the load generator, and measurements that are run by hand, which pytest does not collect."""
