"""What a program does with python-memcached, objects with flags and compression included.

    with_python_memcached.py HOST:PORT...
"""

import sys

import memcache


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found!r}, not {wanted!r}")


def one(address, others):
    client = memcache.Client([address], cache_cas=True, socket_timeout=20)
    values = {"text": "a text", "number": 42, "object": {"a": [1, 2, 3]}, "bytes": b"\x00\r\n\xff"}
    for name, value in values.items():
        expect(f"set {name}", bool(client.set(f"pm:{name}", value)), True)
    expect("compressed set", bool(client.set("pm:long", "long " * 10000, min_compress_len=100)), True)
    for other in [address, *others]:
        reader = memcache.Client([other], socket_timeout=20)
        for name, value in values.items():
            expect(f"get {name}", reader.get(f"pm:{name}"), value)
        expect("compressed get", reader.get("pm:long"), "long " * 10000)
    expect("get_multi", client.get_multi(["text", "number", "none"], key_prefix="pm:"), {"text": "a text", "number": 42})
    expect("set_multi", client.set_multi({str(i): i for i in range(50)}, key_prefix="m:"), [])
    expect("get_multi of many", client.get_multi(range(50), key_prefix="m:"), {i: i for i in range(50)})
    expect("incr", client.incr("pm:number", 8), 50)
    expect("decr", client.decr("pm:number"), 49)
    expect("add", bool(client.add("pm:text", "no")), False)
    expect("gets", client.gets("pm:text"), "a text")
    expect("cas", bool(client.cas("pm:text", "other")), True)
    expect("touch", bool(client.touch("pm:text", 1000)), True)
    expect("delete", bool(client.delete("pm:text")), True)
    expect("get after delete", client.get("pm:text"), None)
    client.flush_all()
    expect("get after flush_all", client.get("pm:number"), None)
    client.disconnect_all()


def main():
    for address in sys.argv[1:]:
        one(address, sys.argv[1:])
    print("ok")


main()
