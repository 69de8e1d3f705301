/** A chain whose job is started for one attempt: with run and reply queues of its own, which are gone with it. */
import { toBinary } from "@bufbuild/protobuf";
import type { Consumer, MessageBus } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { runQueue, runReplyQueue } from "../../lib/bus/queues.ts";
import { AppError, toAppError } from "../../lib/errors.ts";
import type { JobRunner, JobSpec, JobStatus } from "../../lib/jobs/job-runner.ts";
import { RunRequestSchema } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { traceHeaders } from "../../lib/telemetry/trace-context.ts";
import { CONTROL_MESSAGES, type ChainBeginning, type ClaimedChain } from "./claimed-chain.ts";
import { endJob } from "./job-end.ts";

/** What it works with. */
export interface ColdChainDependencies {
  readonly bus: MessageBus;
  readonly runner: JobRunner;
  /** Called where a quota is full: whether something was ended, so that there may be room now. */
  readonly makeRoom?: () => Promise<boolean>;
}

/** See the file comment. */
export class ColdChain implements ClaimedChain {
  readonly lifetime = "cold";
  readonly name: string;
  readonly replyQueue: string;
  readonly #bus: MessageBus;
  readonly #runner: JobRunner;
  readonly #makeRoom: () => Promise<boolean>;
  readonly #spec: JobSpec;
  #consumer: Consumer | undefined;

  constructor({ bus, runner, makeRoom = async () => false }: ColdChainDependencies, spec: JobSpec) {
    this.name = spec.name;
    this.replyQueue = runReplyQueue(spec.name);
    this.#bus = bus;
    this.#runner = runner;
    this.#makeRoom = makeRoom;
    this.#spec = spec;
  }

  async begin({ request, trace, receiver, onQueueReady }: ChainBeginning): Promise<void> {
    const queue = runQueue(this.name);
    await this.#bus.declareQueue(queue, { kind: "run" });
    await this.#bus.declareQueue(this.replyQueue, { kind: "run" });
    this.#consumer = await this.#bus.consume(this.replyQueue, (delivery) => receiver.take(delivery), {
      prefetch: request.credits + CONTROL_MESSAGES,
      onLost: (cause) => receiver.fail(new AppError("unavailable", "The run's reply queue was lost.", { cause })),
    });
    await this.#bus.publish(queue, {
      type: MESSAGE_TYPES.sqlDataRequest,
      body: toBinary(RunRequestSchema, request),
      replyTo: this.replyQueue,
      headers: traceHeaders(trace),
      expiresAtMs: this.#spec.deadlineMs,
    });
    await onQueueReady?.(queue);
    await this.#start();
  }

  watch(signal: AbortSignal): AsyncIterable<JobStatus> {
    return this.#runner.watch(this.name, signal);
  }

  end(lastStepsMs: number): Promise<void> {
    return endJob(this.#runner, this.name, lastStepsMs);
  }

  async #start(): Promise<void> {
    try {
      await this.#runner.start(this.#spec);
    } catch (error) {
      const isFull = toAppError(error).details["reason"] === "QuotaExceeded";
      if (!isFull || !(await this.#makeRoom())) throw error;
      await this.#runner.start(this.#spec);
    }
  }

  async close(): Promise<void> {
    const queues = [runQueue(this.name), this.replyQueue];
    const steps = [Promise.resolve(this.#consumer?.close()), ...queues.map((queue) => this.#bus.deleteQueue(queue))];
    // Each is done whatever becomes of the others.
    for (const outcome of await Promise.allSettled(steps)) if (outcome.status === "rejected") throw outcome.reason;
  }
}
