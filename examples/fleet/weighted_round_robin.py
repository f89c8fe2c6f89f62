"""Calls the replicas of `fleet_replicas` by gRPC's own balancer, at half of what they can do together, and prints the share of each:
at first, and when the third has become four times as slow. With `--oob` by the reports that each replica streams, else by those on its
answers. Needs grpcio 1.60 or later. Ends with 1 if a share is off by more than 15 %."""

import json, sys, threading, time

import grpc

ADDRESSES = sys.argv[1]
RATE = 350  # calls a second; the replicas do 100, 200 and 400
POLICY = {"enableOobLoadReport": "--oob" in sys.argv, "oobReportingPeriod": "1s", "blackoutPeriod": "1s", "weightUpdatePeriod": "0.5s"}
SERVICE = {"loadBalancingConfig": [{"weighted_round_robin": POLICY}]}
OPTIONS = [("grpc.service_config", json.dumps(SERVICE)), ("grpc.default_authority", "fleet")]


def method(channel, name):
    same = lambda message: message
    return channel.unary_unary(f"/fleet.Work/{name}", request_serializer=same, response_deserializer=same)


def shares(do, rate, seconds):
    """Open loop: a call each 1/rate of a second, whether the one before is answered or not."""
    counts, lock, failed = {}, threading.Lock(), []

    def done(call):
        if call.code() != grpc.StatusCode.OK:
            failed.append(call.code())
            return
        with lock:
            counts[call.result()[0]] = counts.get(call.result()[0], 0) + 1

    start, calls = time.monotonic(), int(rate * seconds)
    for number in range(calls):
        time.sleep(max(0, start + number / rate - time.monotonic()))
        do.future(b"", timeout=20).add_done_callback(done)
    time.sleep(1)
    return [counts.get(replica, 0) / calls for replica in range(3)], failed


def check(name, found, failed, wanted):
    print(f"{name}: {' '.join(f'{share:.3f}' for share in found)}, wanted {' '.join(f'{share:.3f}' for share in wanted)}, {len(failed)} failed")
    return not failed and all(abs(share / want - 1) <= 0.15 for share, want in zip(found, wanted))


with grpc.insecure_channel(f"ipv4:{ADDRESSES}", options=OPTIONS) as channel:
    do = method(channel, "Do")
    # All get the same at first, which must not be more than the first can do.
    shares(do, RATE / 2, 5)
    shares(do, RATE, 2)
    good = check("by capacity", *shares(do, RATE, 6), [1 / 7, 2 / 7, 4 / 7])
    with grpc.insecure_channel(ADDRESSES.split(",")[2]) as third:
        method(third, "Slow")(b"", timeout=20)
    # Together they do 400 a second now.
    shares(do, RATE * 4 / 7, 5)
    good &= check("the third slower", *shares(do, RATE * 4 / 7, 6), [1 / 4, 1 / 2, 1 / 4])
sys.exit(0 if good else 1)
