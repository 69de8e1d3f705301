/** Starts a persistent chain for a test: its processes, the queues that it shares, and what comes back of each run. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { randomUUID } from "node:crypto";
import type { OutgoingMessage } from "../../lib/bus/message-bus.ts";
import { MESSAGE_TYPES } from "../../lib/bus/message-types.ts";
import { publishToRun, sharedQueueAddress } from "../../lib/bus/run-address.ts";
import { separated } from "../../lib/rpc/frame-groups.ts";
import {
  CancelSchema,
  CreditSchema,
  RunReportSchema,
  RunRequestSchema,
  type RunReport,
  type RunRequest,
} from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { TestChain, type ChainProgram } from "./chain.ts";
import { eventually } from "./eventually.ts";

/** Where requests wait for the chain. */
export const WORK_QUEUE = "vu-chain-0123abcd-89abcdef";
/** Chunks of a run that may be under way. */
export const CREDITS = 8;
const REPLIES = "VU-in-0123abcd-runs";

/** What came back of one run. */
export interface PersistentRun {
  readonly run: string;
  readonly requestId: string;
  /** As they came, with what goes in one message in one. */
  readonly messages: Frame[];
  readonly frames: readonly Frame[];
  readonly reports: RunReport[];
}

/** A chain that serves many runs; what `TestChain` says of one run does not count here. */
export class PersistentTestChain {
  readonly chain: TestChain;
  readonly #runs = new Map<string, PersistentRun>();
  readonly #messages = new Map<string, OutgoingMessage>();

  private constructor(chain: TestChain) {
    this.chain = chain;
  }

  static async start(
    programs: readonly ChainProgram[],
    environment: Readonly<Record<string, string>> = {},
  ): Promise<PersistentTestChain> {
    const serving = { DYNAMOS_CHAIN_CONCURRENCY: "2" };
    const chain = await TestChain.start({
      programs: programs.map((program) => ({ ...program, environment: { ...serving, ...program.environment } })),
      sidecarEnvironment: { ...serving, DYNAMOS_CHAIN_QUEUE: WORK_QUEUE, ...environment },
      prepare: async (bus) => {
        for (const queue of [WORK_QUEUE, REPLIES]) await bus.declareQueue(queue, { kind: "run" });
      },
    });
    const persistent = new PersistentTestChain(chain);
    await chain.bus.consume(REPLIES, async ({ type, body, correlationId = "" }) => {
      const run = persistent.#runs.get(correlationId);
      if (type === MESSAGE_TYPES.frame) run?.messages.push(fromBinary(FrameSchema, body));
      else run?.reports.push(fromBinary(RunReportSchema, body));
      return "accept";
    });
    return persistent;
  }

  /** Asks for a run; `requestId` may be another's. */
  async request(
    query = "SELECT 1",
    requestId: string = randomUUID(),
    more: Partial<Pick<RunRequest, "endIsEnough" | "takesFollowing">> = {},
  ): Promise<PersistentRun> {
    const { steward } = this.chain;
    const messages: Frame[] = [];
    const run: PersistentRun = {
      run: `run-${randomUUID()}`,
      requestId,
      messages,
      get frames() {
        return messages.flatMap(separated);
      },
      reports: [],
    };
    this.#runs.set(run.run, run);
    const address = sharedQueueAddress(REPLIES, run.run);
    const request = create(RunRequestSchema, {
      requestId,
      attempt: 1,
      steward: steward.name,
      jobName: "test-00000000",
      request: { type: "sqlDataRequest", query },
      grant: await steward.grant(requestId),
      returnAddress: address,
      reportAddress: address,
      deadlineMs: BigInt(Date.now() + 60_000),
      credits: CREDITS,
      ...more,
    });
    const body = toBinary(RunRequestSchema, request);
    this.#messages.set(run.run, { type: MESSAGE_TYPES.sqlDataRequest, body, correlationId: run.run });
    await this.repeat(run);
    return run;
  }

  /** Sends the request of a run again, as a bus does that has not heard that it was taken. */
  async repeat({ run }: PersistentRun): Promise<void> {
    const message = this.#messages.get(run);
    if (message !== undefined) await this.chain.bus.publish(WORK_QUEUE, message);
  }

  /** Lets a run send so many chunks more, as its agent does. */
  async credit({ run, requestId }: PersistentRun, chunks: number): Promise<void> {
    const body = toBinary(CreditSchema, create(CreditSchema, { requestId, attempt: 1, chunks }));
    const address = sharedQueueAddress(this.chain.runName, run);
    await publishToRun(this.chain.bus, address, { type: MESSAGE_TYPES.credit, body });
  }

  /** Ends a run, as its agent does. */
  async cancel({ run, requestId }: PersistentRun): Promise<void> {
    const reason = { code: "cancelled", detail: "As the test wants it.", party: "VU", retryable: false };
    const body = toBinary(CancelSchema, create(CancelSchema, { requestId, reason }));
    const address = sharedQueueAddress(this.chain.runName, run);
    await publishToRun(this.chain.bus, address, { type: MESSAGE_TYPES.cancel, body });
  }

  /** How a run ended. */
  async outcome({ reports }: PersistentRun): Promise<RunReport["state"]> {
    const last = await eventually(
      () => reports.find(({ state }) => state.case === "ended" || state.case === "failed"),
      { timeoutMs: 40_000, describe: `a report of the run's outcome. Its processes wrote:\n${this.chain.log}` },
    );
    return last.state;
  }
}
