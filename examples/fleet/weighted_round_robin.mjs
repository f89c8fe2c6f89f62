// As weighted_round_robin.py, by gRPC's client for Node: `npm install @grpc/grpc-js` beside it, then
// node examples/fleet/weighted_round_robin.mjs ADDRESS,ADDRESS,ADDRESS [--oob]
// Needs 1.14 or later, and `@grpc/proto-loader`, which comes with it. Its configuration wants snake_case: what is written in camelCase is
// left unread without a word.
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";

const require = createRequire(`${process.cwd()}/`);
const grpc = require("@grpc/grpc-js");
// 1.14.0 to 1.14.7 read their .proto files anew for each report that comes with an answer (`loadedOrcaProto` is never set), and manage
// some twenty calls a second so. Who takes reports out of band needs none of this.
const loader = require("@grpc/proto-loader");
const { loadSync } = loader;
const loaded = new Map();
loader.loadSync = (name, options) => {
  if (!loaded.has(name)) loaded.set(name, loadSync(name, options));
  return loaded.get(name);
};
const addresses = process.argv[2];
const RATE = 350; // calls a second; the replicas do 100, 200 and 400
const policy = {
  enable_oob_load_report: process.argv.includes("--oob"),
  oob_load_reporting_period: "1s",
  blackout_period: "1s",
  weight_update_period: "0.5s",
};
const service = { loadBalancingConfig: [{ weighted_round_robin: policy }], methodConfig: [] };
const options = { "grpc.service_config": JSON.stringify(service), "grpc.default_authority": "fleet" };
const same = (bytes) => bytes;

function call(client, name) {
  return new Promise((done) =>
    client.makeUnaryRequest(`/fleet.Work/${name}`, same, same, Buffer.alloc(0), { deadline: Date.now() + 20000 },
      (error, answer) => done(error ? null : answer[0])));
}

// Open loop: a call each 1/rate of a second, whether the one before is answered or not.
async function shares(client, rate, seconds) {
  const start = performance.now(), calls = Math.floor(rate * seconds), pending = [];
  while (pending.length < calls) {
    const due = Math.min(calls, Math.floor(((performance.now() - start) / 1000) * rate) + 1);
    while (pending.length < due) pending.push(call(client, "Do"));
    await sleep(1);
  }
  const answers = await Promise.all(pending);
  const failed = answers.filter((one) => one === null).length;
  return [[0, 1, 2].map((replica) => answers.filter((one) => one === replica).length / calls), failed];
}

function check(name, [found, failed], wanted) {
  const text = (list) => list.map((share) => share.toFixed(3)).join(" ");
  console.log(`${name}: ${text(found)}, wanted ${text(wanted)}, ${failed} failed`);
  return failed === 0 && found.every((share, place) => Math.abs(share / wanted[place] - 1) <= 0.15);
}

const plain = grpc.credentials.createInsecure();
const client = new grpc.Client(`ipv4:${addresses}`, plain, options);
// All get the same at first, which must not be more than the first can do.
await shares(client, RATE / 2, 5);
await shares(client, RATE, 2);
let good = check("by capacity", await shares(client, RATE, 6), [1 / 7, 2 / 7, 4 / 7]);
await call(new grpc.Client(addresses.split(",")[2], plain), "Slow");
// Together they do 400 a second now.
await shares(client, (RATE * 4) / 7, 5);
good &= check("the third slower", await shares(client, (RATE * 4) / 7, 6), [1 / 4, 1 / 2, 1 / 4]);
process.exit(good ? 0 : 1);
