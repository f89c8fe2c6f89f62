#!/usr/bin/env python3
"""Resident bytes for each idle connection, by how they arrive: one after the other, in a burst, and in waves while others
leave. usage: idle-memory.py BINARY [CONNECTIONS] [RUNS] [one|burst|waves ...]

The binary is a server on the preset that answers `GET /hello` and whose first line ends with its address, such as
`full_stack`. Its environment passes on: STELLANE__ENGINE__KIND=per_core. It needs as many open files as connections, on
both sides (`ulimit -n 20000`).
"""
import itertools
import os
import random
import re
import socket
import subprocess
import sys
import time

arguments = sys.argv[1:] + ["", "", ""][len(sys.argv) - 1:]
binary, n, runs = arguments[0], int(arguments[1] or 10_000), int(arguments[2] or 10)
patterns = arguments[3:] or ["one", "burst", "waves"]
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h
REQ = b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n"
def rss(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"): return int(line.split()[1]) * 1024
sources = itertools.count()
def connect(port):
    # Several source addresses, each with its ports chosen by `connect`: those of earlier runs are kept for a minute.
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    s.bind((f"127.0.0.{2 + next(sources) % 200}", 0)); s.connect(("127.0.0.1", port)); return s
def read(s):
    got = b""
    while b"\r\n\r\n" not in got:
        part = s.recv(4096)
        if not part: raise SystemExit("closed")
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    m = re.search(rb"content-length: (\d+)", head.lower())
    left = int(m.group(1)) - len(body)
    while left > 0: left -= len(s.recv(4096))
def one(port, n):
    out = []
    for _ in range(n):
        s = connect(port); s.sendall(REQ); read(s); out.append(s)
    return out
def burst(port, n):
    out = []
    for _ in range(n):
        s = connect(port); s.sendall(REQ); out.append(s)
    for s in out: read(s)
    return out
def waves(port, n):
    out = []; r = random.Random(1)
    k = n // 5
    for w in range(8):
        out += burst(port, k)
        if w < 7 and len(out) > n - k:
            r.shuffle(out)
            for s in out[: len(out) - (n - k)]: s.close()
            out = out[len(out) - (n - k):]
        time.sleep(0.7)
    return out
for pattern in patterns:
    results = []
    for run in range(runs):
        env = dict(os.environ, STELLANE__SERVER__ADDRESS="127.0.0.1:0", STELLANE__SERVER__ADMIN_ADDRESS="127.0.0.1:0", STELLANE__CONNECTION__IDLE_TIMEOUT="10m", STELLANE__CONNECTION__MAX_CONNECTIONS="20000")
        p = subprocess.Popen([binary] + os.environ.get("ARGS", "").split(), env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        line = p.stdout.readline().decode()
        port = int(re.search(r":(\d+)\s*$", line).group(1))
        w = burst(port, 16)
        for s in w: s.close()
        time.sleep(2.5)
        before = rss(p.pid)
        conns = {"one": one, "burst": burst, "waves": waves}[pattern](port, n)
        assert len(conns) == n, len(conns)
        time.sleep(float(os.environ.get("QUIET", "4")))
        after = rss(p.pid)
        results.append(round((after - before) / n))
        for s in conns: s.close()
        p.kill(); p.wait()
    print(pattern, results, f"start {before >> 10} KiB", flush=True)
