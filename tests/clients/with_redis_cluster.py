"""Writes through redis-py's RedisCluster for some seconds, while a node may die, and checks that nothing that was
acknowledged is lost.

    with_redis_cluster.py SECONDS HOST:PORT...
"""

import sys
import time

import redis
from redis.cluster import ClusterNode, RedisCluster

KEYS = 60


class Key:
    """A counter: how often an increment was acknowledged, and how often nobody knows."""

    def __init__(self, name):
        self.name, self.acknowledged, self.unknown, self.seen = name, 0, 0, 0


def load(cluster, keys, until):
    writes = 0
    while time.monotonic() < until:
        for key in keys:
            # Before an increment is sent again it may have been done: so each try counts.
            try:
                told = cluster.incr(key.name)
            except (redis.RedisError, OSError):
                key.unknown += 1
                continue
            if told < key.acknowledged:
                sys.exit(f"{key.name} is {told} after {key.acknowledged} increments were acknowledged")
            key.acknowledged += 1
            key.seen = told
            writes += 1
    return writes


def check(cluster, keys):
    for key in keys:
        value = int(cluster.get(key.name) or 0)
        if value < key.seen or value < key.acknowledged:
            sys.exit(f"{key.name} is {value}: {key.acknowledged} increments were acknowledged, the last told {key.seen}")


seconds = float(sys.argv[1])
addresses = [address.rsplit(":", 1) for address in sys.argv[2:]]
nodes = [ClusterNode(host, int(port)) for host, port in addresses]
cluster = RedisCluster(startup_nodes=nodes, socket_timeout=10, require_full_coverage=False)
cluster.ping(target_nodes=RedisCluster.RANDOM)
keys = [Key(f"py:counter:{i}") for i in range(KEYS)]
for key in keys:
    cluster.delete(key.name)
writes = load(cluster, keys, time.monotonic() + seconds)
check(cluster, keys)
expected = {f"py:c:{i}": str(i) for i in range(100)}
cluster.mset_nonatomic(expected)
if cluster.mget_nonatomic(list(expected)) != [value.encode() for value in expected.values()]:
    sys.exit("values of many slots are not those that were written")
if writes < KEYS:
    sys.exit(f"only {writes} writes in {seconds} seconds")
print("ok")
