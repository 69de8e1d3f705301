/**
 * One run of a handler: between the streams that come in (`Process` calls) and the one call to the next element.
 *
 * A failure goes both ways: upstream as the error of the `Process` calls, downstream as a Failure frame. So it reaches the
 * sidecar, which stands at both ends of the chain, whichever way is still open; the code is the same on both.
 */
import { create } from "@bufbuild/protobuf";
import type { JWK } from "jose";
import { systemClock, type Clock } from "../../lib/clock.ts";
import type { loadSettings } from "../../lib/config/env.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { MicroservicePosition } from "../../lib/jobs/chain-environment.ts";
import type { Grant } from "../../lib/model/grant.ts";
import type { RpcClient } from "../../lib/rpc/client.ts";
import { fromRequestMessage } from "../../lib/rpc/data-request.ts";
import { sendFrames } from "../../lib/rpc/frame-sending.ts";
import { FrameWriter, type AttachmentContent } from "../../lib/rpc/frames.ts";
import {
  MicroserviceService,
  StreamReceiptSchema,
  type StreamReceipt,
} from "../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { SidecarService } from "../../lib/rpc/gen/dynamos/v1/sidecar_pb.ts";
import type { DataRequest, Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import type { CallContext } from "../../lib/rpc/service.ts";
import type { Logger } from "../../lib/telemetry/logger.ts";
import { traceHeaders, type TraceContext } from "../../lib/telemetry/trace-context.ts";
import { withSpan } from "../../lib/telemetry/tracing.ts";
import { ChainInput } from "./chain-input.ts";
import { outputFrames } from "./chain-output.ts";
import type { MicroserviceContext, MicroserviceDefinition } from "./handler.ts";
import { verifyGrants } from "./verified-grants.ts";

/** How long a Failure frame may take to be read downstream before the call is cut off. */
const FAILURE_DELIVERY_LIMIT_MS = 2000;

/** What a run needs. */
export interface ChainRunOptions {
  readonly definition: MicroserviceDefinition;
  readonly position: MicroservicePosition;
  readonly next: RpcClient;
  readonly logger: Logger;
  /** The public keys of this party's own grants. */
  readonly grantKeys: readonly JWK[];
  readonly loadSettings: typeof loadSettings;
  readonly clock?: Clock;
}

/** What the streams that came in have in common. */
interface Opened {
  readonly request: DataRequest;
  /** Signed, as they came, and checked: one's own first, each once. */
  readonly tokens: readonly string[];
  readonly grants: readonly Grant[];
  readonly data: MicroserviceContext["data"];
}

/** See the file comment. */
export class ChainRun {
  /** Resolves once the run is over and its outcome has been handed on. */
  readonly finished: Promise<void>;
  readonly #options: ChainRunOptions;
  readonly #expectedInputs: number;
  readonly #inputs: ChainInput[] = [];
  readonly #attachments: AttachmentContent[] = [];
  readonly #aborting = new AbortController();
  readonly #cutOff = new AbortController();
  readonly #outcome: Promise<void>;
  #succeed!: () => void;
  #reject!: (error: AppError) => void;
  #finish!: () => void;
  #openInputs = 0;
  /** All streams are there: {@link ChainRun.#run} finishes it. */
  #isRunning = false;
  #limit: NodeJS.Timeout | undefined;
  #failure: AppError | undefined;

  constructor(options: ChainRunOptions) {
    this.#options = options;
    this.#expectedInputs = this.#isJoiner ? Math.max(1, options.position.dataProviderCount) : 1;
    this.#outcome = new Promise((resolve, reject) => {
      this.#succeed = resolve;
      this.#reject = reject;
    });
    // The Process calls wait for it; without one there is nobody to tell.
    this.#outcome.catch(() => undefined);
    this.finished = new Promise((resolve) => (this.#finish = resolve));
  }

  /** Whether it has failed, and only its ends are to come. */
  get hasFailed(): boolean {
    return this.#failure !== undefined;
  }

  /** Takes one stream; answers when the rest of the chain has taken the result. */
  async take(frames: AsyncIterable<Frame>, call: CallContext): Promise<StreamReceipt> {
    if (this.#inputs.length >= this.#expectedInputs) throw this.#full();
    const input = new ChainInput(frames, (attachment) => this.#attachments.push(this.#named(attachment, input)));
    this.#inputs.push(input);
    const onAbort = (): void => void this.#fail(this.#brokenOff(call.signal));
    call.signal.addEventListener("abort", onAbort, { once: true });
    try {
      await input.open();
      this.#isRunning = ++this.#openInputs === this.#expectedInputs && this.#failure === undefined;
      // Told upstream at once: what comes after may be gone already, and take its time to be missed.
      if (input.failure !== undefined && !this.#isJoiner) this.#fail(input.failure);
      if (this.#isRunning) void this.#run(call);
    } catch (error) {
      this.#options.logger.warn(
        { error: this.#fail(toAppError(error)) },
        "the stream that came in could not be opened",
      );
    }
    await this.#outcome.finally(() => call.signal.removeEventListener("abort", onAbort));
    return create(StreamReceiptSchema, input.counts);
  }

  /** The process was told to stop. */
  stop(): void {
    this.#fail(new AppError("job_failed", `${this.#options.definition.name} was stopped.`));
  }

  async #run(call: CallContext): Promise<void> {
    const { definition, position, logger } = this.#options;
    const attributes = { "dynamos.microservice": definition.name, "dynamos.steward": position.steward };
    try {
      await withSpan(definition.name, call.trace, attributes, (span) => this.#handOn(call, span));
      this.#succeed();
    } catch (error) {
      logger.warn({ error: this.#fail(toAppError(error)) }, "the request failed, here or in another element");
    }
    clearTimeout(this.#limit);
    this.#finish();
  }

  /** Runs the handler into the call to the next element. Where that fails, so does this; a failure before it goes on as a frame. */
  async #handOn(call: CallContext, span: TraceContext): Promise<void> {
    const { position, next } = this.#options;
    const method = position.isLast ? SidecarService.method.output : MicroserviceService.method.process;
    await sendFrames(next, method, this.#frames(span), {
      signal: this.#cutOff.signal,
      deadlineMs: call.deadlineMs,
      trace: span,
    });
    if (this.#failure !== undefined) throw this.#failure;
  }

  async *#frames(span: TraceContext): AsyncGenerator<Frame> {
    const identity = { ...firstOf(this.#inputs).identity, provider: this.#options.position.steward };
    const writer = new FrameWriter(identity);
    try {
      const opened = await this.#opened(identity.requestId);
      const start = { grants: [...opened.tokens], request: opened.request, ...traceHeaders(span) };
      const outputs = this.#options.definition.handle(this.#inputs, this.#context(identity.requestId, opened));
      yield* outputFrames(outputs, { writer, start, inputs: this.#inputs, attachments: this.#attachments });
      if (this.#failure !== undefined) throw this.#failure;
    } catch (error) {
      yield writer.failure(this.#fail(toAppError(error)));
    }
  }

  /** Checks the streams' grants, and what they have in common. */
  async #opened(requestId: string): Promise<Opened> {
    const failed = this.#inputs.find((input) => input.failure !== undefined)?.failure;
    const open = this.#inputs.filter((input) => input.failure === undefined);
    // Only a joiner's request may go on without one of its inputs, and only the sidecar before it lets that happen.
    if (failed !== undefined && (!this.#isJoiner || open.length === 0)) throw failed;
    const tokens = [...new Set(open.flatMap((input) => input.start?.grants ?? []))];
    const { grantKeys, position, clock = systemClock } = this.#options;
    const grants = await verifyGrants(tokens, { steward: position.steward, keys: grantKeys, requestId, clock });
    for (const input of open) input.grantedBy(this.#grantOf(input, grants));
    const request = open[0]?.start?.request;
    if (request === undefined) throw new AppError("bad_request", "The stream carries no question.");
    return { request, tokens, grants, data: open[0]?.start?.data ?? {} };
  }

  /** An input of the joiner must bring its provider's own grant; any other, this party's. */
  #grantOf(input: ChainInput, grants: readonly Grant[]): Grant {
    const grant = grants.find(({ steward }) => steward === input.provider);
    if (grant === undefined) throw new AppError("forbidden", `The stream of ${input.provider} carries no grant of it.`);
    return grant;
  }

  #context(requestId: string, { request, grants, data }: Opened): MicroserviceContext {
    const { position, logger, loadSettings } = this.#options;
    return {
      requestId,
      request: fromRequestMessage(request),
      grant: firstOf(grants),
      grants,
      minimumGroupSize: Math.max(...grants.map((grant) => grant.minimumGroupSize)),
      data,
      position,
      signal: this.#aborting.signal,
      logger,
      settings: (schema) => loadSettings(schema),
    };
  }

  /** The first failure counts: those that follow are its consequences. */
  #fail(error: AppError): AppError {
    if (this.#failure !== undefined) return this.#failure;
    const failure = error.withParty(this.#options.position.steward);
    this.#failure = failure;
    this.#reject(failure);
    this.#aborting.abort(failure);
    if (this.#isRunning) this.#limit = setTimeout(() => this.#cutOff.abort(failure), FAILURE_DELIVERY_LIMIT_MS).unref();
    // Nothing was begun downstream, and nothing will be.
    else this.#finish();
    return failure;
  }

  /** First at a third party: there the providers' streams meet. */
  get #isJoiner(): boolean {
    const { position } = this.#options;
    return position.isFirst && position.role === "computeProvider";
  }

  /** Attachments of several inputs must not take each other's names. */
  #named(attachment: AttachmentContent, from: ChainInput): AttachmentContent {
    return this.#expectedInputs === 1 ? attachment : { ...attachment, name: `${from.provider}/${attachment.name}` };
  }

  #full(): AppError {
    const { name } = this.#options.definition;
    const message = `${name} serves one request of ${this.#expectedInputs} stream(s), and has it.`;
    return new AppError("conflict", message, { retryable: false });
  }

  #brokenOff(signal: AbortSignal): AppError {
    const reason = toAppError(signal.reason);
    if (reason.code === "deadline_exceeded") return reason;
    const message = `The stream into ${this.#options.definition.name} broke off: the element before it stopped or cancelled.`;
    return new AppError("job_failed", message, { cause: reason });
  }
}

function firstOf<Value>(values: readonly Value[]): Value {
  const [first] = values;
  if (first === undefined) throw new AppError("internal", "There is no first value in an empty list.");
  return first;
}
