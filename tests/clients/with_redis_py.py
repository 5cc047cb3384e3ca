"""What a program does with redis-py: strings, expiries, pipelines, transactions, scans, on every node it is given.

    with_redis_py.py HOST:PORT...
"""

import sys
import time

import redis


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found!r}, not {wanted!r}")


def refused(what, error, call):
    try:
        call()
    except error as found:
        return str(found)
    sys.exit(f"{what} was not refused")


def strings(client, others):
    client.delete(*[f"py:{i}" for i in range(20)], "py:n", "py:f", "py:b")
    expect("set", client.set("py:1", "v1"), True)
    for other in others:
        expect("get from any node", other.get("py:1"), b"v1")
    expect("set nx", client.set("py:1", "no", nx=True), None)
    expect("set get", client.set("py:1", "v2", get=True, ex=100), b"v1")
    expect("append", client.append("py:1", "++"), 4)
    expect("getrange", client.getrange("py:1", 1, -2), b"2+")
    expect("incrby", client.incrby("py:n", 41) + client.incr("py:n"), 83)
    expect("incrbyfloat", client.incrbyfloat("py:f", 0.1), 0.1)
    expect("mset", client.mset({f"py:{i}": i for i in range(2, 10)}), True)
    expect("mget", client.mget([f"py:{i}" for i in range(2, 10)]), [b"%d" % i for i in range(2, 10)])
    expect("setbit", client.setbit("py:b", 7, 1), 0)
    expect("bitcount", client.bitcount("py:b"), 1)
    expect("type", client.type("py:1"), b"string")
    refused("an increment of a text", redis.ResponseError, lambda: client.incr("py:1"))


def expiries(client):
    client.set("py:e", "v")
    expect("expire", client.expire("py:e", 100), True)
    expect("expire gt", client.expire("py:e", 50, gt=True), False)
    left = client.ttl("py:e")
    expect(f"ttl {left}", 98 <= left <= 100, True)
    expect("persist", client.persist("py:e"), True)
    client.psetex("py:e", 300, "v")
    time.sleep(0.5)
    expect("expired", client.exists("py:e"), 0)
    client.set("py:e", "v", px=50_000)
    expect("getdel", client.getdel("py:e"), b"v")


def transactions(client, other):
    a, b = "{py}a", "{py}b"
    client.delete(a, b)
    with client.pipeline(transaction=True) as pipe:
        expect("multi", pipe.set(a, 1).incr(a).get(a).rename(a, b).get(b).execute(), [True, 2, b"2", True, b"2"])
    with client.pipeline() as pipe:
        pipe.watch(b)
        other.set(b, "changed meanwhile")
        pipe.multi()
        pipe.set(b, "never")
        refused("a watched key that changed", redis.WatchError, pipe.execute)
    expect("nothing was done", client.get(b), b"changed meanwhile")
    with client.pipeline(transaction=False) as pipe:
        for i in range(1000):
            pipe.set(f"py:many:{i}", i)
        expect("a pipeline", pipe.execute(), [True] * 1000)


def scans(client):
    wanted = {b"py:many:%d" % i for i in range(1000)}
    expect("scan", set(client.scan_iter("py:many:*", count=100)), wanted)
    expect("keys", set(client.keys("py:many:*")), wanted)
    expect("unlink", client.unlink(*wanted), 1000)


def server(client):
    expect("ping", client.ping(), True)
    expect("info", client.info()["redis_mode"], "cluster")
    client.client_setname("script")
    expect("client list", "script" in [c["name"] for c in client.client_list()], True)
    expect("config get", client.config_get("maxmemory-policy"), {"maxmemory-policy": "noeviction"})
    expect("command", client.command_count() > 80, True)


addresses = [address.rsplit(":", 1) for address in sys.argv[1:]]
for protocol in (2, 3):
    clients = [redis.Redis(host, int(port), protocol=protocol, socket_timeout=20) for host, port in addresses]
    for client in clients:
        strings(client, clients)
        expiries(client)
        transactions(client, clients[-1])
        scans(client)
        server(client)
print("ok")
