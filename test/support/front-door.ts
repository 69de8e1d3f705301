/**
 * The orchestrator and the policy enforcer in this process, over embedded store and bus, with fake agents that speak the bus
 * and answer over HTTP as a test tells them. For tests of the front door; the system suite runs the real agents.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { decodeJson, encodeJson } from "../../lib/bus/json.ts";
import type { Delivery, MessageBus, Settlement } from "../../lib/bus/message-bus.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { agentQueue } from "../../lib/bus/queues.ts";
import { reply } from "../../lib/bus/rpc.ts";
import { loadSettings } from "../../lib/config/env.ts";
import { onlineKeys } from "../../lib/knowledge/keys.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import type { Lease } from "../../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { ReleaseStack } from "../../lib/lifecycle.ts";
import type { PolicyUpdate } from "../../lib/messages.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { CompositionRequest } from "../../lib/model/composition.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { startOrchestrator } from "../../orchestrator/app.ts";
import { OrchestratorSettings } from "../../orchestrator/config.ts";
import { startPolicyEnforcer } from "../../orchestrator/policy-enforcer/app.ts";
import { PolicyEnforcerSettings } from "../../orchestrator/policy-enforcer/config.ts";
import { temporaryFolder } from "./temporary-folder.ts";

/** The sample analyst of `configuration/agreements`. */
export const ANALYST = { id: "analyst-1", userName: "analyst@example.org" };

/** How a front door is started. */
export interface FrontDoorOptions {
  readonly settings?: Readonly<Record<string, string>>;
  /** Documents to seed; default: the package's own. */
  readonly seedFolder?: string;
  readonly withoutPolicyEnforcer?: boolean;
}

/** See the file comment. */
export interface FrontDoor {
  readonly url: string;
  readonly adminKey: string;
  readonly folder: string;
  readonly storeUrl: string;
  readonly busUrl: string;
  /** A second handle on the store, as another process would have it. */
  readonly knowledge: KnowledgeBase;
  /** A second handle on the bus. */
  readonly bus: MessageBus;
  /** What the services have logged, one JSON line each. */
  readonly logLines: readonly string[];
  agent(name: string, options?: FakeAgentOptions): Promise<FakeAgent>;
  /** Another replica of the orchestrator on the same store and bus, and on the same state folder unless it is named; its URL. */
  replica(stateFolder?: string): Promise<string>;
}

/** What a fake agent does. */
export interface FakeAgentOptions {
  /** Answers a data request; default: one row. */
  readonly answer?: (request: ReceivedRequest, response: ServerResponse) => void | Promise<void>;
  /** Name of this instance of the agent; default `a`. */
  readonly instance?: string;
  /** Takes messages and acknowledges nothing. */
  readonly isSilent?: boolean;
  /** Before each acknowledgement. */
  readonly beforeAcknowledging?: () => Promise<void>;
}

/** A data request that an agent got. */
export interface ReceivedRequest {
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: Readonly<Record<string, unknown>> & { readonly options?: Readonly<Record<string, unknown>> };
  readonly message: IncomingMessage;
}

/** A fake agent, online until `goOffline` or the test's end. */
export interface FakeAgent {
  readonly name: string;
  readonly url: string;
  readonly compositions: CompositionRequest[];
  readonly policyUpdates: PolicyUpdate[];
  readonly cancels: string[];
  readonly requests: ReceivedRequest[];
  goOffline(): Promise<void>;
  goOnline(): Promise<void>;
  /** Refuses connections from now on, though it is registered as online. */
  stopServing(): Promise<void>;
}

/** Starts all of it; it ends with the test. */
export async function startFrontDoor(t: TestContext, options: FrontDoorOptions = {}): Promise<FrontDoor> {
  const folder = await temporaryFolder();
  const storeUrl = `sqlite:${join(folder, "store.db")}`;
  const busUrl = `embedded:${join(folder, "bus.db")}`;
  const releases = new ReleaseStack();
  t.after(() => releases.releaseAll());
  const logLines: string[] = [];
  const logger = createLogger("test", {}, "info", { write: (line: string) => void logLines.push(line) });
  const program = { releases, logger, stop: () => undefined };
  const environment = {
    DYNAMOS_STORE: storeUrl,
    DYNAMOS_BUS: busUrl,
    DYNAMOS_STATE_FOLDER: join(folder, "orchestrator"),
    DYNAMOS_SEED_FOLDER: options.seedFolder ?? join(packageRoot, "configuration"),
    ...options.settings,
  };
  if (options.withoutPolicyEnforcer !== true) {
    await startPolicyEnforcer(loadSettings(PolicyEnforcerSettings, environment), program);
  }
  const settings = loadSettings(OrchestratorSettings, environment);
  const { url } = await startOrchestrator(settings, program);
  const store = await openKnowledgeStore(storeUrl);
  releases.push("test's store", () => store.close());
  const bus = await openMessageBus(busUrl);
  releases.push("test's bus", () => bus.close());
  const knowledge = new KnowledgeBase(store);
  return {
    url,
    adminKey: (await readFile(join(folder, "orchestrator", "admin-key"), "utf8")).trim(),
    folder,
    storeUrl,
    busUrl,
    knowledge,
    bus,
    logLines,
    agent: (name, agentOptions) => startFakeAgent(name, { knowledge, bus, releases }, agentOptions),
    replica: async (name = "orchestrator") => {
      const own = { ...settings, DYNAMOS_STATE_FOLDER: join(folder, name) };
      return (await startOrchestrator(own, program)).url;
    },
  };
}

async function startFakeAgent(
  name: string,
  { knowledge, bus, releases }: { knowledge: KnowledgeBase; bus: MessageBus; releases: ReleaseStack },
  { answer = oneRow, instance = "a", isSilent = false, beforeAcknowledging }: FakeAgentOptions = {},
): Promise<FakeAgent> {
  const requests: ReceivedRequest[] = [];
  const server = createServer((message, response) => {
    void readJson(message).then(async (body) => {
      const received = { path: message.url ?? "", headers: message.headers, body, message };
      requests.push(received);
      await answer(received, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stopServing = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  releases.push(`server of ${name}`, stopServing);
  const url = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`;
  const state = { compositions: [], policyUpdates: [], cancels: [] } as Pick<
    FakeAgent,
    "compositions" | "policyUpdates" | "cancels"
  >;
  await bus.declareQueue(agentQueue(name), { kind: "service" });
  const consumer = await bus.consume(agentQueue(name), async (delivery) => {
    const known = note(delivery, state);
    if (isSilent || known === undefined) return "accept";
    await beforeAcknowledging?.();
    return acknowledge(bus, delivery, name, known);
  });
  releases.push(`consumer of ${name}`, () => consumer.close());
  let lease: Lease | undefined;
  const goOnline = async (): Promise<void> => {
    lease = await knowledge.store.grantLease({ ttlMs: 5_000 });
    const record = {
      name,
      activeSince: "2026-01-01T00:00:00Z",
      routingKey: agentQueue(name),
      dns: url,
      instanceUrl: url,
      instance,
      grantKeys: [],
    };
    await knowledge.store.put(onlineKeys.key({ party: name, instanceId: instance }), record, { lease });
  };
  const goOffline = async (): Promise<void> => {
    await lease?.release();
    lease = undefined;
  };
  await goOnline();
  releases.push(`online record of ${name}`, goOffline);
  return { name, url, requests, ...state, goOffline, goOnline, stopServing };
}

function note(
  delivery: Delivery,
  { compositions, policyUpdates, cancels }: Pick<FakeAgent, "compositions" | "policyUpdates" | "cancels">,
): string | undefined {
  const body = decodeJson(delivery) as Record<string, unknown>;
  switch (delivery.type) {
    case "compositionRequest":
      compositions.push(body as CompositionRequest);
      return String(body["job_name"]);
    case "policyUpdate":
      policyUpdates.push(body as unknown as PolicyUpdate);
      return String(body["jobName"]);
    case "cancel":
      cancels.push(String(body["requestId"]));
      return undefined;
    default:
      throw new Error(`unexpected message ${delivery.type}`);
  }
}

async function acknowledge(bus: MessageBus, delivery: Delivery, steward: string, jobName: string): Promise<Settlement> {
  await reply(bus, delivery, { type: "compositionAcknowledgement", body: encodeJson({ steward, jobName }) });
  return "accept";
}

async function readJson(message: IncomingMessage): Promise<Record<string, unknown>> {
  let text = "";
  for await (const piece of message as AsyncIterable<Buffer>) text += piece.toString("utf8");
  return JSON.parse(text) as Record<string, unknown>;
}

function oneRow(_request: ReceivedRequest, response: ServerResponse): void {
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ provider: "?", columns: [], rows: [{ n: 1 }], rowCount: 1, status: "ok" }));
}

/** An agent's JSON answer. */
export function agentAnswer(provider: string, rows: readonly unknown[], members: object = {}): string {
  return JSON.stringify({ provider, columns: [], rows, rowCount: rows.length, ...members, status: "ok" });
}

/** An agreement that gives the analyst everything on `wageGap`, with changes. */
export function agreementOf(name: string, changes: Partial<Agreement> = {}, relation: object = {}): Agreement {
  return {
    name,
    relations: {
      [ANALYST.userName]: {
        ID: ANALYST.id,
        requestTypes: ["sqlDataRequest"],
        dataSets: ["wageGap"],
        allowedArchetypes: ["computeToData", "dataThroughTtp"],
        allowedComputeProviders: ["SURF"],
        ...relation,
      },
    },
    computeProviders: ["SURF"],
    archetypes: ["computeToData", "dataThroughTtp"],
    ...changes,
  };
}

/** One party's part of an answer. */
export interface ResponseBody {
  readonly provider: string;
  readonly status: string;
  readonly rows?: readonly Readonly<Record<string, unknown>>[];
  readonly summary?: unknown;
  readonly problem?: { readonly code: string; readonly detail: string; readonly party?: string };
}

/** The members that the front door's answers and problems have; which of them are there is what a test asserts. */
export interface AnswerBody {
  readonly type: string;
  readonly jobId: string;
  readonly archetype: string;
  readonly requestId: string;
  readonly location: string;
  readonly user: unknown;
  readonly auth: { readonly accessToken: string; readonly refreshToken: string };
  readonly accessToken: string;
  readonly refreshToken: string;
  readonly authorizedProviders: Readonly<Record<string, string>>;
  readonly refused: readonly { readonly provider: string; readonly code: string; readonly detail: string }[];
  readonly offline: readonly string[];
  readonly responses: readonly ResponseBody[];
  readonly pooled?: {
    readonly rows?: readonly Readonly<Record<string, unknown>>[];
    readonly rowCount?: number;
    readonly providers: readonly string[];
    readonly withheldGroups?: number;
    readonly notes: readonly string[];
  };
  readonly notes: readonly string[];
  readonly status: string | number;
  readonly code: string;
  readonly detail: string;
  readonly party: string;
  readonly pointer: string;
  readonly accepted: readonly string[];
  readonly known: readonly string[];
  readonly reason: string;
}

/** A call with a JSON body and answer. */
export async function call(
  method: string,
  url: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<{ readonly status: number; readonly headers: Headers; readonly body: AnswerBody; readonly text: string }> {
  const response = await fetch(url, {
    method,
    headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  return {
    status: response.status,
    headers: response.headers,
    body: (isJson ? JSON.parse(text) : {}) as AnswerBody,
    text,
  };
}
