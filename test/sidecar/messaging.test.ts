/** The messaging sidecar as a program: where it listens, what it refuses, how it ends; and that a chain's sidecar is none. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { create } from "@bufbuild/protobuf";
import { freePort } from "../../cli/exchange/free-port.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { AppError } from "../../lib/errors.ts";
import { parseRpcAddress } from "../../lib/rpc/address.ts";
import { RpcClient } from "../../lib/rpc/client.ts";
import {
  ConsumeRequestSchema,
  MessagingService,
  type ConsumeRequest,
} from "../../lib/rpc/gen/dynamos/v1/messaging_pb.ts";
import { accept, message, nameOf, newGate, newQueue, withCode } from "../support/bus.ts";
import { TestChain } from "../support/chain.ts";
import { eventually } from "../support/eventually.ts";
import { healthClient } from "../support/health-client.ts";
import { startMessagingSidecar, type MessagingSidecar } from "../support/messaging-sidecar.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const { method } = MessagingService;
/** HealthCheckResponse.ServingStatus. */
const [SERVING, NOT_SERVING] = [1, 2];

async function start(t: TestContext, settings: Readonly<Record<string, string>> = {}): Promise<MessagingSidecar> {
  const bus = `embedded:${join(await temporaryFolder(), "bus.sqlite")}`;
  const sidecar = await startMessagingSidecar(bus, "127.0.0.1:0", settings);
  t.after(() => void sidecar.end("SIGKILL"));
  return sidecar;
}

function connect(t: TestContext, url: string): RpcClient {
  const address = parseRpcAddress(url.slice("sidecar:".length));
  const client = new RpcClient({ ...address, peer: "The sidecar", connectLimitMs: 5000 });
  t.after(() => client.close());
  return client;
}

test("a chain's sidecar does not offer messaging: a microservice cannot publish or subscribe", async (t) => {
  const port = await freePort();
  const chain = await TestChain.start({ programs: [], sidecarEnvironment: { SIDECAR_PORT: String(port) } });
  t.after(() => chain.stop());
  const client = connect(t, `sidecar:127.0.0.1:${port}`);
  const calls = [
    () => client.unary(method.declareQueue, { queue: "q", kind: 1 }),
    () => client.unary(method.deleteQueue, { queue: chain.runName }),
    () => client.unary(method.queueStatus, { queue: chain.runName }),
    () => client.unary(method.replayDeadLetter, { id: "1" }),
    () => client.unary(method.ping, {}),
    () => client.serverStream(method.deadLetters, { limit: 1 }).next(),
    async () => (await client.duplex(method.publish)).responses[Symbol.asyncIterator]().next(),
    async () => (await client.duplex(method.consume)).responses[Symbol.asyncIterator]().next(),
  ];
  assert.equal(calls.length, MessagingService.methods.length, "every method is tried");
  for (const call of calls) {
    await assert.rejects(
      call(),
      // gRPC's UNIMPLEMENTED.
      (error) => error instanceof AppError && (error.cause as { code?: number }).code === 12,
    );
  }
});

test("wrong settings are named, and end the program at its start", async () => {
  const bus = `embedded:${join(await temporaryFolder(), "bus.sqlite")}`;
  await assert.rejects(startMessagingSidecar(bus, "0.0.0.0:50051"), /configuration_invalid.*127\.0\.0\.1:<port>/s);
  await assert.rejects(startMessagingSidecar("sidecar:127.0.0.1:1"), /configuration_invalid.*the real one/s);
});

test("told to stop without clients, it ends at once", async (t) => {
  const sidecar = await start(t);
  const bus = await openMessageBus(sidecar.url);
  await bus.close();
  assert.equal(await sidecar.end(), 0);
});

test("told to stop, it serves its deployable to the end of that one's own work", async (t) => {
  const sidecar = await start(t);
  const bus = await openMessageBus(sidecar.url);
  const [questions, answers] = [await newQueue(bus), await newQueue(bus)];
  const gate = newGate(t);
  const started = newGate(t);
  await bus.consume(questions, async () => {
    started.open();
    await gate.opened;
    await bus.publish(answers, message("late"));
    return "accept";
  });
  await bus.publish(questions, message("question"));
  await started.opened;
  const ended = sidecar.end();
  let hasEnded = false;
  void ended.then(() => (hasEnded = true));
  // New calls too: closing down means to tell others.
  await eventually(() => bus.publish(answers, message("while stopping")).then(() => true));
  await bus.ping();
  assert.equal(hasEnded, false);
  gate.open();
  await bus.close();
  assert.equal(await ended, 0);
});

test("a client that stays is cut off when the drain's time is over", async (t) => {
  const sidecar = await start(t, { DYNAMOS_DRAIN_MS: "200" });
  const bus = await openMessageBus(sidecar.url);
  const queue = await newQueue(bus);
  await bus.consume(queue, accept);
  assert.equal(await sidecar.end(), 0);
  assert.match(sidecar.log(), /stops although it still has clients/);
  await bus.close();
});

test("it ends with its parent", async (t) => {
  const sidecar = await start(t);
  sidecar.closeInput();
  assert.equal(await sidecar.ended, 0);
});

test("a client that breaks the protocol is told so, and its deliveries go to others at once", async (t) => {
  const sidecar = await start(t);
  const bus = await openMessageBus(sidecar.url);
  const queue = await newQueue(bus);
  for (const name of ["a", "b"]) await bus.publish(queue, message(name));
  const client = connect(t, sidecar.url);
  const consume = async (...requests: readonly ConsumeRequest["body"][]) => {
    const call = await client.duplex(method.consume);
    for (const body of requests) await call.write(create(ConsumeRequestSchema, { body }));
    const seen: string[] = [];
    for await (const { body } of call.responses) seen.push(body.case ?? "");
    return seen;
  };
  const body = (init: Parameters<typeof create<typeof ConsumeRequestSchema>>[1]) =>
    create(ConsumeRequestSchema, init).body;
  const begin = body({ body: { case: "start", value: { queue, prefetch: 2 } } });
  const settle = (number: bigint, settlement: 0 | 1) =>
    body({ body: { case: "settle", value: { number, settlement } } });
  await assert.rejects(consume(settle(1n, 1)), withCode("bad_request"));
  await assert.rejects(consume(begin, settle(99n, 1)), withCode("bad_request"));
  await assert.rejects(consume(begin, begin), withCode("bad_request"));
  await assert.rejects(consume(begin, body({})), withCode("bad_request"));
  await assert.rejects(
    consume(body({ body: { case: "start", value: { queue, prefetch: 0 } } })),
    withCode("invalid_argument"),
  );
  const names: string[] = [];
  const consumer = await bus.consume(queue, async (delivery) => {
    names.push(nameOf(delivery));
    return "accept";
  });
  await eventually(() => names.length === 2);
  await consumer.close();
  assert.deepEqual(names, ["a", "b"]);
  assert.equal((await bus.queueStatus(queue))?.consumers, 0);
  await bus.close();
});

test("health says when it serves, and when it is about to end", async (t) => {
  const sidecar = await start(t);
  const bus = await openMessageBus(sidecar.url);
  const health = healthClient(Number(sidecar.url.split(":").at(-1)));
  t.after(() => health.client.close());
  assert.equal(await health.check("dynamos.v1.MessagingService"), SERVING);
  const statuses = health.watch("");
  await eventually(() => statuses.length === 1);
  const ended = sidecar.end();
  await eventually(() => statuses.length === 2);
  assert.deepEqual(statuses, [SERVING, NOT_SERVING]);
  await bus.close();
  assert.equal(await ended, 0);
});
