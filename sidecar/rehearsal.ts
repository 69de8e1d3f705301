/**
 * The rehearsal of a sidecar that was started ahead of its request (decision 0021): one made-up run through a relay of its own, over
 * real calls, between a first and a last microservice that are played here. What goes to the bus goes nowhere: nobody else
 * hears of it, and nothing of a request has been there.
 */
import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import type { MessageBus } from "../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../lib/bus/message-types.ts";
import { AppError } from "../lib/errors.ts";
import type { SidecarPosition } from "../lib/jobs/chain-environment.ts";
import { sendFrames } from "../lib/rpc/frame-sending.ts";
import { FrameWriter } from "../lib/rpc/frames.ts";
import {
  MicroserviceService,
  StreamReceiptSchema,
  type StreamReceipt,
} from "../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { CreditSchema, RunRequestSchema } from "../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { SidecarService } from "../lib/rpc/gen/dynamos/v1/sidecar_pb.ts";
import { FrameSchema, type Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { REHEARSAL_LIMIT_MS, startRehearsalServer } from "../lib/rpc/rehearsal-server.ts";
import { implement } from "../lib/rpc/service.ts";
import { traceHeaders, unrecordedTraceContext } from "../lib/telemetry/trace-context.ts";
import { ChainRelay, type RelayContext } from "./chain-relay.ts";

const BATCHES = 24;
const ROWS_PER_BATCH = 1_000;
const NAME = "rehearsal";
const PROVIDER = "Provider1";

/** What it needs. */
export type RehearsalContext = Omit<RelayContext, "bus" | "first"> & {
  readonly position: Pick<SidecarPosition, "role" | "sidecarPort">;
};

/**
 * Runs one run through a relay.
 *
 * @param signal the program was told to stop.
 * @throws AppError what the run failed with: the sidecar would not serve a request either.
 */
export async function rehearse({ position, ...context }: RehearsalContext, signal: AbortSignal): Promise<void> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(REHEARSAL_LIMIT_MS)]);
  const started = performance.now();
  const takesProviders = position.role === "computeProvider";
  const server = await startRehearsalServer(
    [
      implement(MicroserviceService, { process: readAll }),
      implement(SidecarService, { output: (frames, call) => relay.takeOutput(frames, call) }),
    ],
    position,
  );
  const chain = server.connect();
  const trace = unrecordedTraceContext();
  // All credits are given at once.
  const request = create(RunRequestSchema, {
    requestId: NAME,
    attempt: 1,
    steward: context.steward,
    jobName: NAME,
    returnAddress: NAME,
    reportAddress: `${NAME}-reports`,
    dataProviders: takesProviders ? [PROVIDER] : [],
    deadlineMs: BigInt(context.clock.now() + REHEARSAL_LIMIT_MS),
    credits: 2 * BATCHES,
    ...traceHeaders(trace),
  });
  const relay = new ChainRelay({
    ...context,
    bus: NOWHERE,
    first: chain,
    request,
    delivery: { headers: {} },
    creditAddress: NAME,
    attemptInside: 1,
  });
  const onAbort = (): void => void relay.fail(new AppError("job_failed", "The rehearsal was broken off."));
  limit.addEventListener("abort", onAbort, { once: true });
  try {
    const isReported = relay.run();
    if (takesProviders) for await (const frame of stream(PROVIDER)) await relay.take(delivery(frame));
    await relay.take({
      ...delivery(undefined),
      type: MESSAGE_TYPES.credit,
      body: toBinary(CreditSchema, create(CreditSchema, { requestId: NAME, attempt: 1, chunks: 0 })),
    });
    await sendFrames(chain, SidecarService.method.output, stream(context.steward), { signal: limit, trace });
    if (!(await isReported) || relay.failure !== undefined)
      throw relay.failure ?? new AppError("internal", "The rehearsal has no outcome.");
    context.logger.debug({ ms: Math.round(performance.now() - started) }, "rehearsed");
  } finally {
    limit.removeEventListener("abort", onAbort);
    chain.close();
    await server.close();
  }
}

/** Takes everything that a relay sends: its results, reports and credits. */
const NOWHERE: Pick<MessageBus, "publish"> = { publish: () => Promise.resolve() };

async function readAll(frames: AsyncIterable<Frame>): Promise<StreamReceipt> {
  let batches = 0n;
  for await (const frame of frames) if (frame.body.case === "chunk") batches += 1n;
  return create(StreamReceiptSchema, { batches });
}

/** Chunks as they come out of a chain: some that compress, some that do not. */
async function* stream(provider: string): AsyncGenerator<Frame> {
  const writer = new FrameWriter({ provider, requestId: NAME, attempt: 1 });
  yield writer.start({ arrowSchema: randomBytes(256) });
  for (let batch = 0; batch < BATCHES; batch++) {
    const bytes = batch % 2 === 0 ? Buffer.alloc(48 * 1024, "rehearsal ") : randomBytes(16 * 1024);
    yield* writer.batch(bytes, ROWS_PER_BATCH);
    await Promise.resolve();
  }
  yield writer.end();
}

function delivery(frame: Frame | undefined): Parameters<ChainRelay["take"]>[0] {
  const body = frame === undefined ? new Uint8Array() : toBinary(FrameSchema, frame);
  return { type: MESSAGE_TYPES.frame, body, messageId: NAME, headers: {}, redeliveryCount: 0 };
}
