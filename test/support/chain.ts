/** Starts a chain for a test: a sidecar and microservices, each a process of its own, on the embedded bus. */
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import { randomUUID } from "node:crypto";
import { exportJWK, generateKeyPair, type JWK } from "jose";
import type { MessageBus } from "../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { baseEnvironment } from "../../lib/config/env.ts";
import { signGrant } from "../../lib/grants.ts";
import { packageRoot } from "../../lib/package-root.ts";
import type { Grant } from "../../lib/model/grant.ts";
import {
  CreditSchema,
  RunReportSchema,
  RunRequestSchema,
  type RunReport,
} from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type Frame } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { FrameReader, takesCredit, type StreamPart } from "../../lib/rpc/frames.ts";
import { BatchDecoder } from "../../lib/data/ipc.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { eventually } from "./eventually.ts";

/** A program of the chain: its path under `dist/` without `.js`, and its environment. */
export interface ChainProgram {
  readonly program: string;
  readonly environment?: Readonly<Record<string, string>>;
}

/** How the chain is set up. */
export interface ChainOptions {
  readonly programs: readonly ChainProgram[];
  /** Data providers whose streams come in; then the chain is a third party's. Default: none, a data provider's own chain. */
  readonly providers?: readonly string[];
  readonly sidecarEnvironment?: Readonly<Record<string, string>>;
  /** Done before anything is started. */
  readonly prepare?: (bus: MessageBus) => Promise<void>;
}

/** A steward with its keys. */
export class TestSteward {
  readonly name: string;
  readonly #privateKey: JWK;
  readonly publicKey: JWK;

  private constructor(name: string, privateKey: JWK, publicKey: JWK) {
    this.name = name;
    this.#privateKey = privateKey;
    this.publicKey = publicKey;
  }

  static async make(name: string): Promise<TestSteward> {
    const { privateKey, publicKey } = await generateKeyPair("EdDSA", { crv: "Ed25519", extractable: true });
    return new TestSteward(name, await exportJWK(privateKey), await exportJWK(publicKey));
  }

  /** A signed grant. */
  grant(requestId: string, claims: Partial<Grant> = {}): Promise<string> {
    return signGrant(
      {
        steward: this.name,
        requestId,
        jobName: "test-00000000",
        requestType: "sqlDataRequest",
        dataSets: [],
        minimumGroupSize: 1,
        rawRows: true,
        agreementRevision: 1,
        deadlineMs: Date.now() + 60_000,
        ...claims,
      },
      this.#privateKey,
    );
  }
}

/** A chain that runs. */
export class TestChain {
  readonly bus: MessageBus;
  readonly requestId: string;
  readonly runName: string;
  readonly replyQueue: string;
  readonly steward: TestSteward;
  readonly providers: ReadonlyMap<string, TestSteward>;
  /** The sidecar first, then the microservices in order. */
  readonly processes: readonly ChildProcess[];
  /** What came to the return address, in order. */
  readonly frames: Frame[] = [];
  readonly reports: RunReport[] = [];
  /** Whether chunks that come are settled and credited. Off: the receiver has stalled. */
  isTaking = true;
  /** Whether chunks keep their bytes here. */
  keepsData = true;
  readonly #output: string[] = [];
  #credited = 0;

  private constructor(parts: Pick<TestChain, "bus" | "requestId" | "runName" | "steward" | "providers" | "processes">) {
    this.bus = parts.bus;
    this.requestId = parts.requestId;
    this.runName = parts.runName;
    this.replyQueue = `${parts.runName}-reply`;
    this.steward = parts.steward;
    this.providers = parts.providers;
    this.processes = parts.processes;
    for (const child of parts.processes) {
      child.stdout?.on("data", (text: Buffer) => this.#output.push(text.toString()));
      child.stderr?.on("data", (text: Buffer) => this.#output.push(text.toString()));
    }
  }

  /** Starts the processes; the request is sent by {@link request}. */
  static async start(options: ChainOptions): Promise<TestChain> {
    const busUrl = `embedded:${join(await temporaryFolder(), "bus.sqlite")}`;
    const bus = await openMessageBus(busUrl);
    const requestId = randomUUID();
    const runName = `test-${requestId.slice(0, 8)}-1`;
    await bus.declareQueue(runName, { kind: "run" });
    await bus.declareQueue(`${runName}-reply`, { kind: "run" });
    await options.prepare?.(bus);
    const names = options.providers ?? [];
    const steward = await TestSteward.make(names.length === 0 ? "VU" : "SURF");
    const providers = new Map(
      await Promise.all(names.map(async (name) => [name, await TestSteward.make(name)] as const)),
    );
    const sidecarPort = await freePorts(options.programs.length + 1);
    const common = {
      ...baseEnvironment(),
      DATA_STEWARD_NAME: steward.name,
      JOB_NAME: "test-00000000",
      AGENT_ROLE: names.length === 0 ? "all" : "computeProvider",
      NR_OF_DATA_PROVIDERS: String(Math.max(1, names.length)),
      SIDECAR_PORT: String(sidecarPort),
      DYNAMOS_EXIT_WITH_PARENT: "1",
      DYNAMOS_LOG_LEVEL: "warn",
    };
    const sidecar = run("sidecar/main", {
      ...common,
      FIRST_MICROSERVICE_PORT: String(sidecarPort + 1),
      DYNAMOS_BUS: busUrl,
      DYNAMOS_RUN_NAME: runName,
      ...options.sidecarEnvironment,
    });
    const microservices = options.programs.map(({ program, environment }, index) =>
      run(program, {
        ...common,
        DESIGNATED_GRPC_PORT: String(sidecarPort + 1 + index),
        FIRST: index === 0 ? "1" : "0",
        LAST: index === options.programs.length - 1 ? "1" : "0",
        DYNAMOS_GRANT_JWKS: JSON.stringify({ keys: [steward.publicKey] }),
        ...environment,
      }),
    );
    const processes = [sidecar, ...microservices];
    const chain = new TestChain({ bus, requestId, runName, steward, providers, processes });
    await chain.#consume();
    return chain;
  }

  /** Sends the run's request, as an agent does. */
  async request(overrides: MessageInitShape<typeof RunRequestSchema> = {}): Promise<void> {
    const keys = Object.fromEntries([...this.providers].map(([name, { publicKey }]) => [name, [{ ...publicKey }]]));
    const request = create(RunRequestSchema, {
      requestId: this.requestId,
      attempt: 1,
      steward: this.steward.name,
      jobName: "test-00000000",
      request: { type: "sqlDataRequest", query: "SELECT 1" },
      grant: await this.steward.grant(this.requestId, this.providers.size === 0 ? {} : { providers: keys }),
      returnAddress: this.replyQueue,
      reportAddress: this.replyQueue,
      dataProviders: [...this.providers.keys()],
      deadlineMs: BigInt(Date.now() + 30_000),
      credits: 8,
      traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
      ...(overrides as object),
    });
    await this.bus.publish(this.runName, { type: "sqlDataRequest", body: toBinary(RunRequestSchema, request) });
  }

  /** Publishes a frame to the run queue, as a provider does. */
  async send(frame: Frame): Promise<void> {
    await this.bus.publish(this.runName, { type: "frame", body: toBinary(FrameSchema, frame) });
  }

  /** Waits for the report that ends the run. */
  async outcome(timeoutMs = 20_000): Promise<RunReport["state"]> {
    const last = await eventually(() => this.reports.find(({ state }) => state.case !== "handingOn"), {
      timeoutMs,
      describe: `a report of the run's outcome. Its processes wrote:\n${this.#output.join("")}`,
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.#output.join("")}`);
    });
    return last.state;
  }

  /** The parts of the result that came, put together. */
  parts(): readonly StreamPart[] {
    const reader = new FrameReader();
    return this.frames.map((frame) => reader.accept(frame)).filter((part) => part !== undefined);
  }

  /** The numbers in the result's first column. */
  numbers(): readonly bigint[] {
    let decoder: BatchDecoder | undefined;
    return this.parts().flatMap((part) => {
      if (part.kind === "start") decoder = new BatchDecoder(part.start.arrowSchema);
      if (part.kind !== "batch" || decoder === undefined) return [];
      return [...(decoder.decode(new Uint8Array(part.bytes)).getChildAt(0) ?? [])] as bigint[];
    });
  }

  /** Exit codes of all processes, once they have ended. */
  async exitCodes(): Promise<readonly (number | string | null)[]> {
    await eventually(() => this.processes.every((child) => child.exitCode !== null || child.signalCode !== null), {
      describe: "all processes to end",
    });
    return this.processes.map((child) => child.exitCode ?? child.signalCode);
  }

  /** What the processes wrote. */
  get log(): string {
    return this.#output.join("");
  }

  /** Ends whatever still runs. */
  async stop(): Promise<void> {
    for (const child of this.processes) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill("SIGKILL");
      await once(child, "exit");
    }
    await this.bus.close();
  }

  async #consume(): Promise<void> {
    await this.bus.consume(this.replyQueue, async ({ type, body }) => {
      if (type === "runReport") this.reports.push(fromBinary(RunReportSchema, body));
      if (type === "frame") await this.#takeFrame(fromBinary(FrameSchema, body));
      return "accept";
    });
  }

  async #takeFrame(frame: Frame): Promise<void> {
    if (!this.keepsData && frame.body.case === "chunk") frame.body.value.data = new Uint8Array();
    this.frames.push(frame);
    if (!takesCredit(frame) || !this.isTaking) return;
    const start = this.frames.find(({ body }) => body.case === "start")?.body;
    if (start?.case !== "start") throw new Error("A chunk came before the start.");
    this.#credited++;
    const credit = create(CreditSchema, { requestId: this.requestId, attempt: 1, chunks: 1 });
    // The sidecar may have ended: then its queue is there still, and nobody reads it.
    await this.bus.publish(start.value.creditQueue, { type: "credit", body: toBinary(CreditSchema, credit) });
  }

  /** Returns the credits that were held back. */
  async takeAgain(): Promise<void> {
    this.isTaking = true;
    const chunks = this.frames.filter(takesCredit).length - this.#credited;
    this.#credited += chunks;
    const credit = create(CreditSchema, { requestId: this.requestId, attempt: 1, chunks });
    await this.bus.publish(this.runName, { type: "credit", body: toBinary(CreditSchema, credit) });
  }
}

function run(program: string, environment: Record<string, string>): ChildProcess {
  const path = join(packageRoot, "dist", `${program}.js`);
  return spawn(process.execPath, ["--enable-source-maps", path], { env: environment, stdio: ["pipe", "pipe", "pipe"] });
}

/** Ports that one process of tests draws from, and the first ports of a draw. */
const PORTS = 120;
const FIRST_PORTS = 112;

/**
 * The first of so many consecutive free ports on 127.0.0.1. They are used only some time later: each process draws from a range
 * of its own, so that no test beside it is given them meanwhile.
 */
async function freePorts(count: number): Promise<number> {
  for (let attempt = 0; attempt < 50; attempt++) {
    const first = 20_000 + (process.pid % 100) * PORTS + Math.floor(Math.random() * FIRST_PORTS);
    const free = await Promise.all(Array.from({ length: count }, (_, index) => isFree(first + index)));
    if (free.every(Boolean)) return first;
  }
  throw new Error(`No ${count} consecutive ports are free.`);
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen(port, "127.0.0.1");
    await once(server, "listening");
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}
