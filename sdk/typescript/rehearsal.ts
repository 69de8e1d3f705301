/**
 * The rehearsal of a microservice that was started ahead of its request (decision 0021): made-up runs through its own handler, over
 * real calls, before it listens. A process that answers for the first time spends most of its time in loading and compiling what
 * it runs; afterwards nothing of that is left to do, and nothing of a request has been there.
 *
 * The process plays the elements before and after itself: it sends itself rows, and takes its own result. The grants are signed with
 * a key that is made for this, and that only these runs believe.
 */
import { create } from "@bufbuild/protobuf";
import { exportJWK, generateKeyPair, type JWK } from "jose";
import { systemClock } from "../../lib/clock.ts";
import type { loadSettings } from "../../lib/config/env.ts";
import { AppError } from "../../lib/errors.ts";
import { signGrant } from "../../lib/grants.ts";
import type { MicroservicePosition } from "../../lib/jobs/chain-environment.ts";
import type { DataRequest } from "../../lib/model/data-request.ts";
import type { Grant } from "../../lib/model/grant.ts";
import type { RpcClient } from "../../lib/rpc/client.ts";
import { toRequestMessage } from "../../lib/rpc/data-request.ts";
import { sendFrames } from "../../lib/rpc/frame-sending.ts";
import { FrameWriter, readParts } from "../../lib/rpc/frames.ts";
import {
  MicroserviceService,
  StreamReceiptSchema,
  type StreamReceipt,
} from "../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { SidecarService } from "../../lib/rpc/gen/dynamos/v1/sidecar_pb.ts";
import type { Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { batchFrames, schemaBytes } from "../../lib/rpc/record-batches.ts";
import { REHEARSAL_LIMIT_MS, startRehearsalServer, type RehearsalServer } from "../../lib/rpc/rehearsal-server.ts";
import { implement } from "../../lib/rpc/service.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { unrecordedTraceContext } from "../../lib/telemetry/trace-context.ts";
import { ChainRun } from "./chain-run.ts";
import type { DataLocation, MicroserviceDefinition } from "./handler.ts";
import { REHEARSAL_DATA_SET, rehearsalBatches } from "./rehearsal-data.ts";

/** Streams that meet in a joiner's rehearsal, however many it is for. */
const MOST_PROVIDERS = 2;

/** What a rehearsal needs. */
export interface RehearsalOptions {
  readonly definition: MicroserviceDefinition;
  readonly position: MicroservicePosition;
  readonly logger: Logger;
  readonly loadSettings: typeof loadSettings;
  /** The process was told to stop. */
  readonly signal: AbortSignal;
}

/** A key, and what it signs. */
interface Signer {
  readonly publicKey: JWK;
  grantOf: (steward: string, providers: readonly string[]) => Promise<string>;
}

/**
 * Runs all questions of the definition's rehearsal, one after the other; without one does nothing.
 *
 * @throws AppError what a run failed with: the microservice would not answer a request either.
 */
export async function rehearse(options: RehearsalOptions): Promise<void> {
  const { definition, logger, signal } = options;
  const { rehearsal } = definition;
  if (rehearsal === undefined) return;
  const started = performance.now();
  const data = await rehearsal.openData?.();
  try {
    const stage = await Stage.open(options);
    const limit = AbortSignal.any([signal, AbortSignal.timeout(REHEARSAL_LIMIT_MS)]);
    try {
      for (const request of rehearsal.requests) await stage.run(request, data?.locations, limit);
    } finally {
      await stage.close();
    }
  } finally {
    await data?.close();
  }
  logger.debug({ runs: rehearsal.requests.length, ms: Math.round(performance.now() - started) }, "rehearsed");
}

/** The elements around the one that rehearses. */
class Stage {
  readonly #options: RehearsalOptions;
  readonly #signer: Signer;
  readonly #close: () => Promise<void>;
  readonly #position: MicroservicePosition;
  readonly #before: RpcClient;
  readonly #after: RpcClient;
  readonly #onRun: (run: ChainRun) => void;

  private constructor(
    options: RehearsalOptions,
    signer: Signer,
    server: RehearsalServer,
    onRun: (run: ChainRun) => void,
  ) {
    const { position } = options;
    this.#options = options;
    this.#signer = signer;
    this.#onRun = onRun;
    const dataProviderCount = Math.min(MOST_PROVIDERS, position.dataProviderCount);
    this.#position = { ...position, dataProviderCount, isLast: true };
    this.#before = server.connect();
    this.#after = server.connect();
    this.#close = async () => {
      this.#before.close();
      this.#after.close();
      await server.close();
    };
  }

  static async open(options: RehearsalOptions): Promise<Stage> {
    let current: ChainRun | undefined;
    const process = (...call: Parameters<ChainRun["take"]>): Promise<StreamReceipt> => {
      if (current === undefined) throw new AppError("internal", "There is no rehearsal.");
      return current.take(...call);
    };
    const implementations = [implement(MicroserviceService, { process }), implement(SidecarService, { output })];
    const signer = await makeSigner();
    const server = await startRehearsalServer(implementations, options.position);
    return new Stage(options, signer, server, (run) => (current = run));
  }

  /** One run; resolves when its whole result has been taken. */
  async run(request: DataRequest, data: Locations | undefined, signal: AbortSignal): Promise<void> {
    const { definition, logger, loadSettings } = this.#options;
    const position = this.#position;
    const grantKeys = [this.#signer.publicKey];
    const run = new ChainRun({ definition, position, next: this.#after, logger, grantKeys, loadSettings });
    this.#onRun(run);
    const onAbort = (): void => run.stop();
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      const { method } = MicroserviceService;
      const streams = await this.#streams(request, data);
      const call = { signal, trace: unrecordedTraceContext() };
      await Promise.all(streams.map((frames) => sendFrames(this.#before, method.process, frames, call)));
      await run.finished;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  close(): Promise<void> {
    return this.#close();
  }

  /** What the element before sends: the question alone where rows are made here, else rows; to a joiner of each provider. */
  async #streams(request: DataRequest, data: Locations | undefined): Promise<AsyncGenerator<Frame>[]> {
    const { steward, isFirst, role, dataProviderCount } = this.#position;
    const isJoiner = isFirst && role === "computeProvider";
    const providers = isJoiner ? Array.from({ length: dataProviderCount }, (_, index) => `Provider${index + 1}`) : [];
    const own = await this.#signer.grantOf(steward, providers);
    const message = toRequestMessage(request);
    const from = async (provider: string): Promise<AsyncGenerator<Frame>> => {
      const grants = isJoiner ? [own, await this.#signer.grantOf(provider, [])] : [own];
      return stream(provider, { grants, request: message, data: data ?? {} }, data === undefined ? this.#rows : 0);
    };
    return Promise.all(isJoiner ? providers.map(from) : [from(steward)]);
  }

  get #rows(): number | undefined {
    return this.#options.definition.rehearsal?.rows;
  }
}

type Locations = Readonly<Record<string, DataLocation>>;

const REQUEST_ID = "rehearsal";

async function* stream(
  provider: string,
  start: Parameters<FrameWriter["start"]>[0],
  rows: number | undefined,
): AsyncGenerator<Frame> {
  const writer = new FrameWriter({ provider, requestId: REQUEST_ID, attempt: 1 });
  const batches = rows === 0 ? [] : rehearsalBatches(rows);
  const [first] = batches;
  yield writer.start(first === undefined ? start : { ...start, arrowSchema: schemaBytes(first.schema) });
  for (const batch of batches) yield* batchFrames(writer, batch);
  yield writer.end();
}

/** The element after: takes the result, and throws what it failed with. */
async function output(frames: AsyncIterable<Frame>): Promise<StreamReceipt> {
  let rows = 0n;
  for await (const part of readParts(frames, "the rehearsal")) if (part.kind === "end") rows = part.end.rows;
  return create(StreamReceiptSchema, { rows });
}

async function makeSigner(): Promise<Signer> {
  const pair = await generateKeyPair("EdDSA", { crv: "Ed25519", extractable: true });
  const publicKey = await exportJWK(pair.publicKey);
  const privateKey = await exportJWK(pair.privateKey);
  const grantOf = (steward: string, providers: readonly string[]): Promise<string> => {
    const grant: Grant = {
      steward,
      requestId: REQUEST_ID,
      jobName: REQUEST_ID,
      requestType: "sqlDataRequest",
      dataSets: [REHEARSAL_DATA_SET],
      minimumGroupSize: 1,
      rawRows: true,
      agreementRevision: 1,
      deadlineMs: systemClock.now() + REHEARSAL_LIMIT_MS,
      ...(providers.length === 0
        ? {}
        : { providers: Object.fromEntries(providers.map((name) => [name, [{ ...publicKey }]])) }),
    };
    return signGrant(grant, privateKey);
  };
  return { publicKey, grantOf };
}
