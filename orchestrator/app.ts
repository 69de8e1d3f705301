/** Wiring of the orchestrator: opens the ports, builds the parts, serves, and watches for policy updates. */
import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { openMessageBus } from "../lib/bus/open.ts";
import { instanceReplyQueue, POLICY_ENFORCER_QUEUE } from "../lib/bus/queues.ts";
import { RpcClient } from "../lib/bus/rpc.ts";
import { systemClock } from "../lib/clock.ts";
import { AppError } from "../lib/errors.ts";
import { listenBySettings } from "../lib/http/listen.ts";
import { CLOSING_REST_MS, closeServer } from "../lib/http/close-server.ts";
import { isOwnUrlLocal, ownUrl } from "../lib/http/own-url.ts";
import {
  certificateDependency,
  portDependencies,
  readinessOf,
  requireConsumer,
  type Dependency,
} from "../lib/http/readiness.ts";
import { createHttpServer } from "../lib/http/server.ts";
import { orchestratorOnlineKeys } from "../lib/knowledge/keys.ts";
import { KnowledgeBase } from "../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../lib/knowledge/open.ts";
import type { ProgramContext } from "../lib/lifecycle.ts";
import type { OrchestratorOnlineRecord } from "../lib/messages.ts";
import { keepRegistered, type Registration } from "../lib/registration.ts";
import { startMetrics } from "../lib/telemetry/metrics.ts";
import { observeServiceQueue } from "../lib/telemetry/queue-metrics.ts";
import { startTracing } from "../lib/telemetry/tracing.ts";
import { openTls, type ProgramTls } from "../lib/tls/open.ts";
import { localJwks } from "../lib/tokens.ts";
import { AgentLiveness } from "./agent-liveness.ts";
import type { OrchestratorSettings } from "./config.ts";
import type { OrchestratorContext, OrchestratorLimits } from "./context.ts";
import { GatheringSlots } from "./gathering-slots.ts";
import { Callers } from "./http/caller.ts";
import { addChainRoutes } from "./http/chains.ts";
import type { HttpContext } from "./http/context.ts";
import { addKeptAnswerRoutes } from "./http/kept-answers.ts";
import { addKnowledgeRoutes } from "./http/knowledge.ts";
import { addRequestRoutes } from "./http/requests.ts";
import { addTokenRoutes } from "./http/tokens.ts";
import { JobTokens } from "./job-tokens.ts";
import { KeptAnswers } from "./kept-answers.ts";
import { loadOrchestratorKeys } from "./keys.ts";
import { createMetrics } from "./metrics.ts";
import { PlanStore } from "./plans.ts";
import { PolicyUpdates } from "./policy-updates.ts";
import { Replicas } from "./replicas.ts";
import { seedIfEmpty } from "./seed.ts";

/** An agent that reaches its own deadline has this long to say so before its caller gives it up. */
const DEADLINE_GRACE_MS = 5_000;

/** Starts an orchestrator; its releases go on the program's stack. */
export async function startOrchestrator(
  settings: OrchestratorSettings,
  program: Pick<ProgramContext, "releases" | "logger">,
): Promise<{ readonly url: string }> {
  const { releases, logger } = program;
  const folder = settings.DYNAMOS_STATE_FOLDER;
  await mkdir(folder, { recursive: true });
  const otlpEndpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT;
  releases.push("tracing", await startTracing("orchestrator", otlpEndpoint === undefined ? {} : { otlpEndpoint }));

  const metrics = startMetrics(settings, releases);

  const tls = await openTls(settings, program);
  const orchestrator = await openPorts(settings, tls, program);
  if (settings.DYNAMOS_SEED_FOLDER !== undefined) {
    const stored = await seedIfEmpty(orchestrator.knowledge, settings.DYNAMOS_SEED_FOLDER, orchestrator.clock);
    if (stored > 0) logger.info({ documents: stored }, "seeded the empty knowledge store");
  }
  // The part that is watched may be the one that is down: so it is not left to it alone.
  observeServiceQueue(orchestrator.bus, POLICY_ENFORCER_QUEUE);
  const http = await openHttpContext(settings, orchestrator);
  const running: { registration?: Registration; updates?: Promise<void> } = {};
  // Released after the server and the updates: as long as it stands, nobody takes over what is under way here.
  releases.push("registration", () => running.registration?.close());
  releases.push("kept answers", () => http.answers.close());
  const watching = new AbortController();
  releases.push("policy updates", async () => {
    watching.abort();
    await running.updates;
  });

  const server = createHttpServer({
    logger,
    maxBodyBytes: settings.DYNAMOS_MAX_BODY_BYTES,
    service: "orchestrator",
    readiness: readinessOf(
      [...dependenciesOf(orchestrator, () => running.registration), ...certificateDependency(tls.certificate)],
      { clock: orchestrator.clock },
    ),
    metrics,
    certificate: tls.certificate,
  });
  addRequestRoutes(server, http);
  addKeptAnswerRoutes(server, http);
  addTokenRoutes(server, http);
  addKnowledgeRoutes(server, http);
  addChainRoutes(server, http);
  const drainMs = settings.DYNAMOS_DRAIN_MS;
  releases.push("HTTP server", () => closeServer(server, drainMs), drainMs + CLOSING_REST_MS);
  const url = await listenBySettings(settings, (address) => server.listen(address));
  const { port } = server.server.address() as AddressInfo;
  running.registration = await register(instanceUrl(settings, port, tls, logger), settings, orchestrator);
  running.updates = new PolicyUpdates(orchestrator, watching.signal).run();
  logger.info({ url }, "orchestrator is ready");
  return { url };
}

function instanceUrl(
  { DYNAMOS_INSTANCE_URL: given, DYNAMOS_HOST: host }: OrchestratorSettings,
  port: number,
  { certificate }: ProgramTls,
  logger: ProgramContext["logger"],
): string {
  const url = ownUrl({ given, host, port, isTls: certificate !== undefined });
  if (isOwnUrlLocal({ given, host }))
    logger.warn({ url }, "replicas on other machines cannot call this one: set DYNAMOS_INSTANCE_URL");
  return url;
}

function register(
  url: string,
  settings: OrchestratorSettings,
  { knowledge, replicas, clock, logger }: OrchestratorContext,
): Promise<Registration> {
  const { instance } = replicas;
  const value: OrchestratorOnlineRecord = { instance, url, activeSince: new Date(clock.now()).toISOString() };
  const records = [{ key: orchestratorOnlineKeys.key({ instanceId: instance }), value }];
  const leaseMs = settings.DYNAMOS_ONLINE_LEASE_MS;
  return keepRegistered(knowledge.store, { records, leaseMs }, { clock, logger });
}

/** Without a policy enforcer nothing new is approved, but what is approved goes on. */
function dependenciesOf(
  { knowledge, bus }: OrchestratorContext,
  registration: () => Registration | undefined,
): readonly Dependency[] {
  return [
    ...portDependencies({ store: knowledge.store, bus }),
    {
      name: "registration",
      check: async () => {
        if (registration()?.isRegistered() === true) return;
        throw new AppError("unavailable", "This instance is not registered: others may take over what it is at.");
      },
      fix: "It registers by itself once the knowledge store answers; if that does, see this orchestrator's log.",
    },
    {
      name: "policy enforcer",
      required: false,
      check: () => requireConsumer(bus, POLICY_ENFORCER_QUEUE),
      fix: "Start a policy enforcer on the same message bus (orchestrator/policy-enforcer/main).",
    },
  ];
}

async function openPorts(
  settings: OrchestratorSettings,
  { trust }: ProgramTls,
  { releases, logger }: Pick<ProgramContext, "releases" | "logger">,
): Promise<OrchestratorContext> {
  const clock = systemClock;
  const store = await openKnowledgeStore(settings.DYNAMOS_STORE);
  releases.push("knowledge store", () => store.close());
  const bus = await openMessageBus(settings.DYNAMOS_BUS);
  releases.push("message bus", () => bus.close());
  const instance = randomUUID().slice(0, 8);
  const replyQueue = instanceReplyQueue("orchestrator", instance);
  const rpc = new RpcClient(bus, { replyQueue, clock });
  releases.push("bus calls", () => rpc.close());
  const knowledge = new KnowledgeBase(store);
  const gathering = new GatheringSlots(settings.DYNAMOS_MAX_GATHERED_REQUESTS);
  const agents = new AgentLiveness(store, logger);
  releases.push("agents' liveness", () => agents.close());
  return {
    knowledge,
    plans: new PlanStore(store),
    bus,
    rpc,
    clock,
    logger,
    trust,
    gathering,
    agents,
    replicas: new Replicas(store, instance),
    metrics: createMetrics(gathering),
    limits: limitsOf(settings),
  };
}

async function openHttpContext(
  settings: OrchestratorSettings,
  orchestrator: OrchestratorContext,
): Promise<HttpContext> {
  const { clock, logger, limits } = orchestrator;
  const folder = settings.DYNAMOS_STATE_FOLDER;
  const { signingKey, publishedKeys, adminKey } = await loadOrchestratorKeys(folder);
  return {
    orchestrator,
    callers: new Callers(localJwks(publishedKeys), adminKey, clock),
    tokens: new JobTokens(signingKey, clock),
    signingKeys: publishedKeys,
    answers: await KeptAnswers.open({
      folder: join(folder, "answers"),
      maxBytes: limits.maxKeptAnswerBytes,
      maxTotalBytes: settings.DYNAMOS_KEPT_ANSWERS_TOTAL_BYTES,
      keepMs: limits.keptAnswerMs,
      maxRunning: settings.DYNAMOS_MAX_ASYNC_REQUESTS,
      clock,
      logger,
    }),
  };
}

function limitsOf(settings: OrchestratorSettings): OrchestratorLimits {
  return {
    jobLeaseMs: settings.DYNAMOS_JOB_LEASE_MS,
    compositionTimeoutMs: settings.DYNAMOS_COMPOSITION_TIMEOUT_MS,
    requestDeadlineMs: settings.DYNAMOS_REQUEST_DEADLINE_MS,
    deadlineGraceMs: DEADLINE_GRACE_MS,
    maxPooledAnswerBytes: settings.DYNAMOS_MAX_POOLED_ANSWER_BYTES,
    maxKeptAnswerBytes: settings.DYNAMOS_MAX_KEPT_ANSWER_BYTES,
    keptAnswerMs: settings.DYNAMOS_KEPT_ANSWER_MS,
  };
}
