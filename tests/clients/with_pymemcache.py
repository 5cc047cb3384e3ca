"""What a program does with pymemcache: every kind of command, on every node it is given.

    with_pymemcache.py HOST:PORT...
"""

import sys
import time

from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found!r}, not {wanted!r}")


def one(address, others):
    client = Client(address, default_noreply=False, timeout=20)
    expect("set", client.set("py:k", "v1", flags=7), True)
    for other in others:
        expect("get from any node", Client(other, timeout=20).get("py:k"), b"v1")
    expect("add", client.add("py:k", "no"), False)
    expect("replace", client.replace("py:k", "v2"), True)
    expect("append", client.append("py:k", "+"), True)
    expect("prepend", client.prepend("py:k", "-"), True)
    value, token = client.gets("py:k")
    expect("gets", value, b"-v2+")
    expect("cas", client.cas("py:k", "v3", token), True)
    expect("cas again", client.cas("py:k", "v4", token), False)
    expect("cas of none", client.cas("py:none", "v", b"1"), None)
    expect("set_many", client.set_many({f"py:{i}": str(i) for i in range(100)}), [])
    found = client.get_many([f"py:{i}" for i in range(110)])
    expect("get_many", found, {f"py:{i}": str(i).encode() for i in range(100)})
    expect("incr", client.incr("py:5", 7), 12)
    expect("decr", client.decr("py:5", 20), 0)
    expect("incr of none", client.incr("py:none", 1), None)
    try:
        client.incr("py:k", 1)
        sys.exit("incr of a text is no error")
    except MemcacheClientError:
        pass
    expect("touch", client.touch("py:k", 1), True)
    time.sleep(1.3)
    expect("get of what expired", client.get("py:k"), None)
    expect("delete", client.delete("py:7"), True)
    expect("delete again", client.delete("py:7"), False)
    expect("delete_many", client.delete_many([f"py:{i}" for i in range(100)]), True)
    client.set("py:quiet", "1", noreply=True)
    expect("get after noreply", client.get("py:quiet"), b"1")
    large = b"x" * (1 << 20)
    expect("large set", client.set("py:large", large), True)
    expect("large get", client.get("py:large"), large)
    expect("delete large", client.delete("py:large"), True)
    if b"curr_items" not in client.stats():
        sys.exit("stats tells no curr_items")
    if not client.version().startswith(b"1.6."):
        sys.exit("version is none of memcached's")
    expect("flush_all", client.flush_all(), True)
    expect("get after flush_all", client.get("py:quiet"), None)
    client.quit()


def main():
    addresses = [(host, int(port)) for host, port in (text.rsplit(":", 1) for text in sys.argv[1:])]
    for address in addresses:
        one(address, addresses)
    # A client that spreads keys by itself finds them as well.
    client = HashClient(addresses, default_noreply=False, timeout=20)
    for i in range(200):
        expect("set by hash", client.set(f"h:{i}", str(i)), True)
    last = Client(addresses[-1], timeout=20)
    for i in range(200):
        expect("get by another node", last.get(f"h:{i}"), str(i).encode())
    print("ok")


main()
