/** A chain whose job is started for one attempt: with run and reply queues of its own, which are gone with it. */
import type { MessageBus } from "../../lib/bus/message-bus.ts";
import type { JobRunner, JobSpec, JobStatus } from "../../lib/jobs/job-runner.ts";
import type { ChainBeginning, ClaimedChain } from "./claimed-chain.ts";
import { endJob } from "./job-end.ts";
import { RunQueues } from "./run-queues.ts";
import { startWithRoom } from "./start-with-room.ts";

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
  readonly #queues: RunQueues;
  readonly #runner: JobRunner;
  readonly #makeRoom: () => Promise<boolean>;
  readonly #spec: JobSpec;

  constructor({ bus, runner, makeRoom = async () => false }: ColdChainDependencies, spec: JobSpec) {
    this.name = spec.name;
    this.#queues = new RunQueues(bus, spec.name);
    this.replyQueue = this.#queues.reply;
    this.#runner = runner;
    this.#makeRoom = makeRoom;
    this.#spec = spec;
  }

  async begin({ request, trace, receiver, onQueueReady }: ChainBeginning): Promise<void> {
    await this.#queues.open(receiver, request.credits);
    await this.#queues.request(request, trace, this.#spec.deadlineMs);
    await onQueueReady?.(this.#queues.run);
    await startWithRoom(this.#runner, this.#spec, this.#makeRoom);
  }

  watch(signal: AbortSignal): AsyncIterable<JobStatus> {
    return this.#runner.watch(this.name, signal);
  }

  end(lastStepsMs: number): Promise<void> {
    return endJob(this.#runner, this.name, lastStepsMs);
  }

  close(): Promise<void> {
    return this.#queues.close();
  }
}
