/**
 * One agent's HTTP door in this process, over a real store, bus and signing key, without a job runner: for what is decided before
 * a chain starts. Whatever gets further fails with `job_start_failed`.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { exportJWK, generateKeyPair } from "jose";
import { Admission } from "../../agent/admission.ts";
import { AgentSettings } from "../../agent/config.ts";
import { PersistentChains } from "../../agent/chains/persistent-chains.ts";
import type { AgentContext } from "../../agent/context.ts";
import { WarmPool } from "../../agent/chains/warm-pool.ts";
import { DataSources } from "../../agent/data-sources.ts";
import { addDataRequestRoutes } from "../../agent/http/data-requests.ts";
import { loadStewardKeys } from "../../agent/identity.ts";
import { JobRegistry } from "../../agent/jobs.ts";
import { agentMetrics } from "../../agent/metrics.ts";
import { ProvidedStreams } from "../../agent/replicas/provided-streams.ts";
import { RequestClaims } from "../../agent/replicas/request-claims.ts";
import { Siblings } from "../../agent/replicas/siblings.ts";
import { Requests } from "../../agent/requests.ts";
import { LiveRuns } from "../../agent/runs/live-runs.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { RpcClient } from "../../lib/bus/rpc.ts";
import { systemClock } from "../../lib/clock.ts";
import { loadSettings } from "../../lib/config/env.ts";
import { AppError } from "../../lib/errors.ts";
import { createHttpServer } from "../../lib/http/server.ts";
import type { JobRunner, JobSpec } from "../../lib/jobs/job-runner.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { onlineKeys } from "../../lib/knowledge/keys.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { ReleaseStack } from "../../lib/lifecycle.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import type { CompositionRequest } from "../../lib/model/composition.ts";
import { createLogger } from "../../lib/telemetry/logger.ts";
import { issueTokens, loadOrCreateSigningKey, AccessTokenVerifier, localJwks } from "../../lib/tokens.ts";
import { NODE_TRUST } from "../../lib/tls/trust.ts";
import { readPackageFile } from "./markdown.ts";
import { NUMBERS, numbersAgreement } from "./numbers.ts";
import { ANALYST } from "./exchange.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const INSTANCE = "1a2b3c4d";
const JOB_NAME = "analyst-1f2e3d4c";

/** See the file comment. */
export interface AgentDoor {
  readonly context: AgentContext;
  readonly knowledge: KnowledgeBase;
  readonly jobName: string;
  /** What was to be started. */
  readonly jobs: readonly JobSpec[];
  /** Posts a data request with the analyst's token. */
  readonly ask: (
    question: object,
    headers?: Readonly<Record<string, string>>,
  ) => Promise<{ readonly status: number; readonly body: DoorAnswer }>;
  /** Registers a provider as online. */
  readonly goOnline: (provider: string) => Promise<void>;
}

/** What an answer may have. */
export interface DoorAnswer {
  readonly code?: string;
  readonly party?: string;
  readonly detail?: string;
  readonly refusal?: string;
}

/** Opens the door of a party that has a part in the analyst's job; with an agreement of its own where one is given. */
export async function openAgentDoor(
  t: TestContext,
  party: string,
  part: Pick<CompositionRequest, "role"> & Partial<CompositionRequest>,
  agreement: Agreement | undefined = numbersAgreement(party),
): Promise<AgentDoor> {
  const releases = new ReleaseStack();
  t.after(() => releases.releaseAll());
  const folder = await temporaryFolder();
  const store = await openKnowledgeStore(`sqlite:${join(folder, "store.db")}`);
  releases.push("store", () => store.close());
  const bus = await openMessageBus(`embedded:${join(folder, "bus.db")}`);
  releases.push("bus", () => bus.close());
  const rpc = new RpcClient(bus, { replyQueue: `${party}-in-test` });
  releases.push("calls", () => rpc.close());
  const knowledge = new KnowledgeBase(store);
  const logger = createLogger("test", {}, "info", { write: () => undefined });
  const settings = loadSettings(AgentSettings, {
    DYNAMOS_STEWARD: party,
    DYNAMOS_STORE: "sqlite:",
    DYNAMOS_BUS: "embedded:",
    DYNAMOS_JOBS: "local:",
    DYNAMOS_STATE_FOLDER: folder,
    DYNAMOS_ORCHESTRATOR_URL: "http://127.0.0.1",
  });
  const signingKey = await loadOrCreateSigningKey(join(folder, "signing-key.json"));
  const dataFile = join(folder, "party.json");
  const files = { Numbers: "Numbers.csv" };
  await writeFile(dataFile, JSON.stringify({ dataSets: { [NUMBERS.name]: { engine: "csv", files } } }));
  await writeFile(join(folder, "Numbers.csv"), "kind;amount\na;1\n");
  const jobs: JobSpec[] = [];
  const limits = { maxRunning: 4, maxQueued: 4 };
  const admission = { reading: new Admission(limits), computing: new Admission(limits) };
  const lease = await store.grantLease({ ttlMs: 60_000 });
  const siblings = await Siblings.open({
    store,
    party,
    instance: INSTANCE,
    clock: systemClock,
    logger,
    onGone: async () => undefined,
  });
  releases.push("siblings", () => siblings.close());
  const runner = noRunner(jobs);
  const { DYNAMOS_WARM_CHAINS: ceiling, DYNAMOS_WARM_CHAIN_AGE_MS: ageMs } = settings;
  const shared = { steward: party, instance: INSTANCE, clock: systemClock, logger };
  const context: AgentContext = {
    steward: party,
    instance: INSTANCE,
    settings,
    telemetryEnvironment: { OTEL_TRACES_SAMPLER: "always_off" },
    clock: systemClock,
    logger,
    trust: NODE_TRUST,
    knowledge,
    bus,
    rpc,
    runner,
    persistent: new PersistentChains({
      ...{ bus, runner, clock: systemClock, logger, steward: party, instance: INSTANCE, settings },
      isLast: () => Promise.resolve(true),
      makeRoom: () => Promise.resolve(false),
    }),
    warm: new WarmPool({
      ...{ ...shared, bus, runner, ceiling, ageMs },
      longestRequestMs: 60_000,
      credits: 8,
      requestsWait: () => false,
    }),
    keys: await loadStewardKeys(join(folder, "keys")),
    tokens: new AccessTokenVerifier(localJwks([signingKey]), { audience: party, clock: systemClock }),
    jobs: new JobRegistry(store, party, 600_000, systemClock),
    live: new LiveRuns(),
    siblings,
    claims: new RequestClaims({
      store,
      party,
      instance: INSTANCE,
      instanceUrl: () => "http://127.0.0.1",
      lease: () => lease,
      isKept: (request) => requests.has(request),
      report: () => undefined,
    }),
    streams: new ProvidedStreams({
      store,
      party,
      instance: INSTANCE,
      lease: () => lease,
      siblings,
      clock: systemClock,
      report: () => undefined,
    }),
    metrics: agentMetrics(admission),
    admission,
    data: new DataSources({
      dataFile,
      folder: join(folder, "data"),
      worldFolder: join(folder, "worlds"),
      clock: systemClock,
      logger,
    }),
  };
  await knowledge.put("datasets", NUMBERS);
  for (const name of ["sql-query", "sql-aggregate", "sql-algorithm", "sql-graph", "sql-anonymize"]) {
    await knowledge.put("microservices", (await packageDocument(`microservices/${name}`)) as never);
  }
  await knowledge.put("requestTypes", (await packageDocument("requestTypes/sqlDataRequest")) as never);
  if (agreement !== undefined) await knowledge.put("agreements", agreement);
  await context.jobs.register({
    archetype_id: part.role === "all" ? "computeToData" : "dataThroughTtp",
    request_type: "sqlDataRequest",
    user: ANALYST,
    data_providers: ["VU"],
    destination_queue: `${party}-in`,
    job_name: JOB_NAME,
    local_job_name: `${JOB_NAME}-${party.toLowerCase()}`,
    data_sets: [NUMBERS.name],
    plan_version: 1,
    ...part,
  });
  const requests = new Requests({
    folder,
    maxBytesPerAnswer: 1_000_000,
    maxBytes: 1_000_000,
    keepMs: 60_000,
    lingerMs: 1_000,
    maxKept: 10,
    stallMs: 10_000,
    onForgotten: (request) => context.claims.release(request),
    report: () => undefined,
  });
  releases.push("requests", () => requests.close());
  const server = createHttpServer({ logger, readiness: async () => [] });
  addDataRequestRoutes(server, context, requests);
  const url = await server.listen({ host: "127.0.0.1", port: 0 });
  releases.push("server", () => server.close());
  const claims = {
    sub: ANALYST.userName,
    uid: ANALYST.id,
    job: JOB_NAME,
    requestType: "sqlDataRequest",
    dataSets: [NUMBERS.name],
    aud: [party],
    agreements: {},
  };
  const { accessToken } = await issueTokens(claims, signingKey, systemClock);
  return {
    context,
    knowledge,
    jobName: JOB_NAME,
    jobs,
    ask: async (question, headers = {}) => {
      const { type = "sqlDataRequest" } = question as { readonly type?: string };
      const response = await fetch(`${url}/agent/v1/${type}/${party.toLowerCase()}`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          authorization: `Bearer ${accessToken}`,
          ...headers,
        },
        body: JSON.stringify(question),
      });
      return { status: response.status, body: (await response.json()) as DoorAnswer };
    },
    goOnline: async (provider) => {
      const { publicKey } = await generateKeyPair("EdDSA", { extractable: true });
      await store.put(onlineKeys.key({ party: provider, instanceId: "a" }), {
        name: provider,
        activeSince: "2026-01-01T00:00:00Z",
        routingKey: `${provider}-in`,
        dns: "http://127.0.0.1",
        instanceUrl: "http://127.0.0.1",
        instance: "a",
        grantKeys: [await exportJWK(publicKey)],
      });
    },
  };
}

function noRunner(jobs: JobSpec[]): JobRunner {
  const missing = async (): Promise<never> => {
    throw new AppError("job_start_failed", "There is no job runner here.", { retryable: false });
  };
  return {
    start: async (spec) => {
      jobs.push(spec);
      await missing();
    },
    status: async () => undefined,
    watch: () => ({ [Symbol.asyncIterator]: () => ({ next: missing }) }),
    end: async () => undefined,
    stop: async () => undefined,
    list: async () => [],
    logs: async () => [],
    close: async () => undefined,
  };
}

async function packageDocument(path: string): Promise<unknown> {
  return JSON.parse(await readPackageFile(`configuration/${path}.json`));
}
