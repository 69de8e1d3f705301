/**
 * From a steward's chain to a third party's over RabbitMQ, between two processes: what both sidecars do with a stream (result output,
 * credits, provider input), beside a plain amqplib client that publishes and confirms the same bytes with as many under way, or more.
 * `node dist/bench/party-hop.js receive URL` is the other process.
 */
import { create } from "@bufbuild/protobuf";
import { connect } from "amqplib";
import { fork } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { MessageBus } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { openMessageBus } from "../lib/bus/open.ts";
import { EXCHANGE } from "../lib/bus/rabbitmq-topology.ts";
import { systemClock } from "../lib/clock.ts";
import { CHUNK_BYTES, FrameWriter } from "../lib/rpc/frames.ts";
import { CreditSchema, RunRequestSchema, type RunRequest } from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { newTraceContext } from "../lib/telemetry/trace-context.ts";
import { secondsOf } from "./measured.ts";
import { ProviderInput } from "../sidecar/provider-input.ts";
import { ResultOutput } from "../sidecar/result-output.ts";
import { outgoing, readBody } from "../sidecar/run-messages.ts";

/** As many chunks as are under way by default (`DYNAMOS_CREDITS` of an agent). */
export const USUAL_CREDITS = 16;
/** As many as can be under way here. */
export const MOST_CREDITS = 64;
const PROVIDER = "VU";
const STALL_MS = 60_000;

/**
 * Both ends; each function sends so many chunks, with so many under way, and resolves with the seconds until the last was confirmed and
 * had arrived.
 */
export interface PartyHop {
  readonly chunkBytes: number;
  readonly raw: (chunks: number, credits?: number) => Promise<number>;
  readonly ours: (chunks: number, credits?: number) => Promise<number>;
  close(): Promise<void>;
}

/** Starts the other process and connects both to a RabbitMQ. */
export async function openPartyHop(url: string): Promise<PartyHop> {
  const bus = await openMessageBus(url);
  for (const queue of ["provider", "third", "raw"]) await bus.declareQueue(queue, { kind: "run" });
  const child = fork(fileURLToPath(import.meta.url), ["receive", url]);
  await once(child, "message");
  const connection = await connect(url);
  // What ended the connection is told by whatever then fails.
  connection.on("error", () => undefined);
  const publisher = await connection.createConfirmChannel();
  const told = async (): Promise<void> => void (await once(child, "message"));
  /** The other side gets ready before the time begins to count. */
  const timed = async (next: NextTransfer, publish: () => Promise<void>): Promise<number> => {
    child.send(next);
    await told();
    return secondsOf(() => Promise.all([told(), publish()]));
  };
  let attempt = 0;
  return {
    chunkBytes: CHUNK_BYTES,
    raw: (chunks, credits = USUAL_CREDITS) =>
      timed({ raw: chunks, credits }, () => publishRaw(publisher, chunks, credits)),
    ours: (chunks, credits = USUAL_CREDITS) => {
      attempt += 1;
      const of = attempt;
      // Made before: that is the last microservice's work, which the hop inside a chain counts.
      const made = [...frames(of, chunks)];
      return timed({ attempt: of, credits }, () => publishOurs(bus, of, made, credits));
    },
    close: async () => {
      child.kill();
      await connection.close();
      await bus.close();
    },
  };
}

/** What the other process is to take next: so many raw chunks, or a stream of ours. */
type NextTransfer = { readonly credits: number } & ({ readonly raw: number } | { readonly attempt: number });

type Publisher = Awaited<ReturnType<Awaited<ReturnType<typeof connect>>["createConfirmChannel"]>>;

async function publishRaw(publisher: Publisher, chunks: number, credits: number): Promise<void> {
  const body = randomBytes(CHUNK_BYTES);
  let underWay = 0;
  let wake = (): void => undefined;
  for (let sent = 0; sent < chunks; sent += 1) {
    while (underWay >= credits) await new Promise<void>((resolve) => (wake = resolve));
    underWay += 1;
    publisher.publish(EXCHANGE, "raw", body, { persistent: true, mandatory: true }, () => {
      underWay -= 1;
      wake();
    });
  }
  await publisher.waitForConfirms();
}

async function publishOurs(bus: MessageBus, attempt: number, made: readonly Frame[], credits: number): Promise<void> {
  const output = new ResultOutput({
    bus,
    run: runRequest(attempt, credits),
    creditAddress: "provider",
    stallTimeoutMs: STALL_MS,
    clock: systemClock,
    onHandingOn: async () => undefined,
  });
  const returned = await bus.consume("provider", async (delivery) => {
    output.giveBack(readBody(CreditSchema, delivery).chunks);
    return "accept";
  });
  await output.publish(inTurn(made), newTraceContext(), AbortSignal.timeout(STALL_MS * 10));
  await returned.close();
}

async function* inTurn(made: readonly Frame[]): AsyncGenerator<Frame> {
  yield* made;
}

/** All are views of the same bytes. */
function* frames(attempt: number, chunks: number): Generator<Frame> {
  const writer = new FrameWriter({ provider: PROVIDER, requestId: "r", attempt });
  const data = randomBytes(CHUNK_BYTES);
  yield writer.start({});
  for (let index = 0; index < chunks; index += 1) yield* writer.batch(data, 1);
  yield writer.end();
}

function runRequest(attempt: number, credits: number): RunRequest {
  return create(RunRequestSchema, {
    requestId: "r",
    attempt,
    steward: PROVIDER,
    returnAddress: "third",
    reportAddress: "third",
    credits,
    dataProviders: [PROVIDER],
    deadlineMs: BigInt(Math.round(systemClock.now() + STALL_MS * 10)),
  });
}

/** The third party's side. */
async function receive(url: string): Promise<void> {
  const bus = await openMessageBus(url);
  let input: ProviderInput | undefined;
  await bus.consume(
    "third",
    async (delivery) => {
      await input?.take(readBody(FrameSchema, delivery));
      return "accept";
    },
    { prefetch: MOST_CREDITS + 4 },
  );
  const connection = await connect(url);
  connection.on("error", () => undefined);
  const channel = await connection.createChannel();
  let awaited = 0;
  await channel.prefetch(MOST_CREDITS * 2);
  await channel.consume("raw", (message) => {
    if (message === null) return;
    channel.ack(message);
    if (--awaited === 0) process.send?.("arrived");
  });
  process.on("message", (next: NextTransfer) => {
    if ("raw" in next) awaited = next.raw;
    else input = newInput(bus, next.attempt, next.credits);
    process.send?.("ready");
  });
  process.send?.("ready");
}

function newInput(bus: MessageBus, attempt: number, credits: number): ProviderInput {
  return new ProviderInput({
    provider: PROVIDER,
    run: runRequest(attempt, credits),
    send: (taken) => {
      void (async () => {
        for await (const { body } of taken) if (body.case === "end") process.send?.("arrived");
      })();
    },
    returnCredits: async (queue, of, chunks) => {
      const credit = { requestId: "r", attempt: of, chunks };
      await bus.publish(queue, outgoing(MESSAGE_TYPES.credit, CreditSchema, credit));
    },
    onError: (error) => {
      throw error;
    },
  });
}

if (process.argv[2] === "receive" && process.argv[1] === fileURLToPath(import.meta.url))
  await receive(process.argv[3] ?? "");
