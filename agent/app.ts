/** Wiring of one agent: opens the ports, builds the parts, serves. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { mkdir } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { keepConsuming } from "../lib/bus/keep-consuming.ts";
import { openMessageBus } from "../lib/bus/open.ts";
import { agentQueue, instanceControlQueue, instanceReplyQueue } from "../lib/bus/queues.ts";
import { RpcClient } from "../lib/bus/rpc.ts";
import { systemClock } from "../lib/clock.ts";
import { baseEnvironment, telemetryEnvironment } from "../lib/config/env.ts";
import { AppError } from "../lib/errors.ts";
import { listenBySettings } from "../lib/http/listen.ts";
import { isOwnUrlLocal, ownUrl } from "../lib/http/own-url.ts";
import {
  certificateDependency,
  portDependencies,
  readinessOf,
  requireAnswer,
  type Dependency,
} from "../lib/http/readiness.ts";
import { createHttpServer } from "../lib/http/server.ts";
import { openJobRunner, parseJobRunnerSetting } from "../lib/jobs/open.ts";
import { agentInstanceKeys, onlineKeys } from "../lib/knowledge/keys.ts";
import { KnowledgeBase } from "../lib/knowledge/knowledge-base.ts";
import type { Lease } from "../lib/knowledge/knowledge-store.ts";
import { openKnowledgeStore } from "../lib/knowledge/open.ts";
import type { ProgramContext, ReleaseStack } from "../lib/lifecycle.ts";
import type { OnlineRecord } from "../lib/messages.ts";
import { keepRegistered, type Registration } from "../lib/registration.ts";
import { startMetrics } from "../lib/telemetry/metrics.ts";
import { observeServiceQueue } from "../lib/telemetry/queue-metrics.ts";
import { startTracing } from "../lib/telemetry/tracing.ts";
import { openTls } from "../lib/tls/open.ts";
import type { Trust } from "../lib/tls/trust.ts";
import { AccessTokenVerifier, remoteJwks } from "../lib/tokens.ts";
import { Admission, type AdmissionLimits } from "./admission.ts";
import { AnswersFolder } from "./answers-folder.ts";
import { PersistentChains } from "./chains/persistent-chains.ts";
import { WarmPool } from "./chains/warm-pool.ts";
import { orchestratorUrls, type AgentSettings } from "./config.ts";
import type { AgentContext } from "./context.ts";
import { DataSources } from "./data-sources.ts";
import { followAgreement } from "./grant-guard.ts";
import { addDataRequestRoutes } from "./http/data-requests.ts";
import { loadStewardKeys } from "./identity.ts";
import { JobRegistry } from "./jobs.ts";
import { agentMetrics, observeWarmChains } from "./metrics.ts";
import { EndRunsHearing } from "./replicas/end-runs.ts";
import { removeInstanceQueues, removeLeftOvers, type LeftOversOptions } from "./replicas/left-overs.ts";
import { ProvidedStreams } from "./replicas/provided-streams.ts";
import { RequestClaims } from "./replicas/request-claims.ts";
import { Siblings, type SiblingsOptions } from "./replicas/siblings.ts";
import { Requests } from "./requests.ts";
import { LiveRuns } from "./runs/live-runs.ts";
import { handleServiceMessage } from "./service-messages.ts";

/** Messages of the service queue in hand beyond those that hold a provided stream: compositions, policy updates, cancels. */
const CONTROL_PREFETCH = 64;
/** How many leases long a vanished instance may come back, before what it left is removed. */
const BACK_IN_LEASES = 2;
/** After the runs have been ended, answers under way have this long to say so. */
const DRAIN_REST_MS = 5_000;

/** Starts an agent; its releases go on the program's stack. */
export async function startAgent(settings: AgentSettings, program: ProgramContext): Promise<{ readonly url: string }> {
  const { releases, logger } = program;
  const clock = systemClock;
  const steward = settings.DYNAMOS_STEWARD;
  const instance = randomUUID().slice(0, 8);
  const folder = settings.DYNAMOS_STATE_FOLDER;
  await mkdir(folder, { recursive: true });
  const otlpEndpoint = settings.OTEL_EXPORTER_OTLP_ENDPOINT;
  releases.push("tracing", await startTracing(`agent-${steward}`, otlpEndpoint === undefined ? {} : { otlpEndpoint }));

  const metrics = startMetrics(settings, releases);
  const { certificate, trust } = await openTls(settings, program);
  const store = await openKnowledgeStore(settings.DYNAMOS_STORE);
  releases.push("knowledge store", () => store.close());
  const bus = await openMessageBus(settings.DYNAMOS_BUS);
  releases.push("message bus", () => bus.close());
  const runner = await openJobRunner(parseJobRunnerSetting(settings.DYNAMOS_JOBS), {
    steward,
    clock,
    environment: baseEnvironment(),
    report: (error) => logger.error({ error }, "the job runner met a fault where nobody waits"),
    ...(settings.DYNAMOS_POD_NAME === undefined ? {} : { podName: settings.DYNAMOS_POD_NAME }),
  });
  releases.push("job runner", () => runner.close());
  const rpc = new RpcClient(bus, { replyQueue: instanceReplyQueue(steward, instance) });
  releases.push("bus calls", () => rpc.close());

  const siblings = await watchSiblings(settings, instance, { store, bus, runner, clock, logger });
  releases.push("watch for other instances", () => siblings.close());

  const limits = admissionLimits(settings);
  const admissionOf = (role: string): Admission =>
    new Admission(limits, () => counters.admissionRefused.add(1, { role }));
  const live = new LiveRuns();
  const queue = instanceControlQueue(steward, instance);
  const hearing = await EndRunsHearing.open({ bus, queue, live, clock, logger });
  releases.push("queue of this instance", () => hearing.close());
  const online: { registration?: Registration; instanceUrl: string } = { instanceUrl: "" };
  const admission = { reading: admissionOf("reading"), computing: admissionOf("computing") };
  const counters = agentMetrics(admission);
  const keys = await loadStewardKeys(join(folder, "keys"));
  const warm = new WarmPool({
    bus,
    runner,
    clock,
    logger,
    steward,
    instance,
    ceiling: settings.DYNAMOS_WARM_CHAINS,
    ageMs: settings.DYNAMOS_WARM_CHAIN_AGE_MS,
    longestRequestMs: settings.DYNAMOS_REQUEST_DEADLINE_MS,
    credits: settings.DYNAMOS_CREDITS,
    requestsWait: () => admission.reading.load.queued + admission.computing.load.queued > 0,
  });
  releases.push("warm chains", () => warm.close());
  observeWarmChains(warm);
  const persistent = new PersistentChains({
    ...{ bus, runner, clock, logger, steward, instance, settings },
    isLast: async () => (await siblings.living()).length === 0,
    makeRoom: async () => (await warm.makeRoom()) > 0,
  });
  releases.push("persistent chains", () => persistent.close());
  const report = (error: AppError): void => logger.error({ error }, "something kept could not be deleted");
  const context: AgentContext = {
    steward,
    instance,
    settings,
    telemetryEnvironment: telemetryEnvironment(),
    clock,
    logger,
    trust,
    knowledge: new KnowledgeBase(store),
    bus,
    rpc,
    runner,
    persistent,
    warm,
    keys,
    tokens: new AccessTokenVerifier(
      remoteJwks(
        orchestratorUrls(settings).map((url) => `${url}/.well-known/jwks.json`),
        { clock, trust },
      ),
      { audience: steward, clock },
    ),
    jobs: new JobRegistry(store, steward, settings.DYNAMOS_JOB_LEASE_MS, clock),
    live,
    siblings,
    claims: new RequestClaims({
      store,
      party: steward,
      instance,
      instanceUrl: () => online.instanceUrl,
      lease: () => online.registration?.lease(),
      isKept: (request) => requests.has(request),
      report,
    }),
    streams: new ProvidedStreams({
      store,
      party: steward,
      instance,
      lease: () => online.registration?.lease(),
      siblings,
      clock,
      report,
    }),
    metrics: counters,
    admission,
    data: new DataSources({
      dataFile: settings.DYNAMOS_DATA_FILE,
      folder: join(folder, "data"),
      worldFolder: join(folder, "worlds"),
      mostBytes: settings.DYNAMOS_LOAD_MAX_BYTES,
      temporaryBytes: settings.DYNAMOS_LOAD_TEMP_BYTES,
      clock,
      logger,
    }),
  };
  const answers = await AnswersFolder.open({ shared: join(folder, "answers"), instance, clock, report });
  releases.push("folder of answers", () => answers.close());
  const requests = new Requests({
    folder: answers.path,
    maxBytesPerAnswer: settings.DYNAMOS_KEPT_ANSWER_BYTES,
    maxBytes: settings.DYNAMOS_MAX_KEPT_BYTES,
    keepMs: settings.DYNAMOS_KEPT_ANSWER_MS,
    lingerMs: settings.DYNAMOS_ANSWER_LINGER_MS,
    maxKept: settings.DYNAMOS_MAX_KEPT_ANSWERS,
    stallMs: settings.DYNAMOS_STALL_TIMEOUT_MS,
    onForgotten: (request) => context.claims.release(request),
    report,
  });
  releases.push("answers", () => requests.close());

  const server = createHttpServer({
    logger,
    maxBodyBytes: 1024 * 1024,
    service: `agent-${steward}`,
    readiness: readinessOf(
      [...dependenciesOf(context, () => online.registration), ...certificateDependency(certificate)],
      { clock },
    ),
    metrics,
    certificate,
  });
  addDataRequestRoutes(server, context, requests);
  await listenBySettings(settings, (address) => server.listen(address));
  const { port } = server.server.address() as AddressInfo;
  const { DYNAMOS_INSTANCE_URL: given, DYNAMOS_HOST: host } = settings;
  online.instanceUrl = ownUrl({ given, host, port, isTls: certificate !== undefined });
  if (isOwnUrlLocal({ given, host }))
    logger.warn({ url: online.instanceUrl }, "other machines cannot call this agent: set DYNAMOS_INSTANCE_URL");
  const url = settings.DYNAMOS_ADVERTISED_URL ?? online.instanceUrl;

  await bus.declareQueue(agentQueue(steward), { kind: "service" });
  observeServiceQueue(bus, agentQueue(steward));
  online.registration = await joinParty(context, { dns: url, instanceUrl: online.instanceUrl }, releases);
  await takeWork(context, server, releases);
  // First of all, nobody brings new work; to its siblings this instance lives until its runs have ended.
  const onlineKey = onlineKeys.key({ party: steward, instanceId: instance });
  releases.push("online record", () => online.registration?.withdraw(onlineKey));
  logger.info({ url }, "agent is ready");
  return { url };
}

/** Makes this instance known, to those who bring work and to its siblings, and watches the agreement that its runs are held to. */
async function joinParty(
  context: AgentContext,
  urls: Pick<OnlineRecord, "dns" | "instanceUrl">,
  releases: ReleaseStack,
): Promise<Registration> {
  const { steward, instance, knowledge, settings, keys, claims, streams, live, clock, logger } = context;
  const parts = { party: steward, instanceId: instance };
  const record: OnlineRecord = {
    name: steward,
    activeSince: new Date(clock.now()).toISOString(),
    routingKey: agentQueue(steward),
    ...urls,
    instance,
    grantKeys: [{ ...keys.publicGrantKey }],
  };
  const records = [
    { key: agentInstanceKeys.key(parts), value: { instance, instanceUrl: urls.instanceUrl } },
    { key: onlineKeys.key(parts), value: record },
  ];
  const onRegisteredAgain = async (lease: Lease): Promise<void> => {
    await claims.restore(lease);
    await streams.restore(lease);
    // While nobody knew of this instance, nobody told it what to end.
    await live.recheckAll();
  };
  const leaseMs = settings.DYNAMOS_ONLINE_LEASE_MS;
  const registration = await keepRegistered(
    knowledge.store,
    { records, leaseMs, onRegisteredAgain },
    { clock, logger },
  );
  releases.push("registration", () => registration.close());
  const ending = new AbortController();
  const following = followAgreement(context, live, ending.signal);
  releases.push("watch for the agreement", async () => {
    ending.abort();
    await following;
  });
  return registration;
}

/** Takes messages, and only once this instance is known: what an unknown one runs would count as a dead one's. */
async function takeWork(
  context: AgentContext,
  server: { close(): Promise<unknown> },
  releases: ProgramContext["releases"],
): Promise<void> {
  const { steward, bus, live, warm, settings, clock, logger } = context;
  const consumer = await keepConsuming(bus, {
    queue: agentQueue(steward),
    declaration: { kind: "service" },
    handler: (delivery) => handleServiceMessage(context, delivery),
    // A provided stream holds its message as long as it runs or waits: those that follow must find room.
    prefetch: settings.DYNAMOS_MAX_RUNS + settings.DYNAMOS_MAX_QUEUED_RUNS + CONTROL_PREFETCH,
    onHandlerError: (error, delivery) =>
      logger.error({ error, messageType: delivery.type }, "a message failed; it will be tried again"),
    clock,
    logger,
  });
  const drainMs = settings.DYNAMOS_DRAIN_MS;
  releases.push(
    "http server, service queue and runs",
    async () => {
      // Nothing new comes in from here on; what runs may end by itself, and is ended when the time is up.
      const closed = Promise.all([server.close(), consumer.close(), warm.close()]);
      await live.idle(drainMs);
      live.stop(new AppError("unavailable", `The agent of ${steward} is stopping.`));
      await closed;
    },
    drainMs + DRAIN_REST_MS,
  );
}

/** Watches the other instances; what dead ones left is removed now, and whenever one has died. */
async function watchSiblings(
  { DYNAMOS_STEWARD: party, DYNAMOS_ONLINE_LEASE_MS: leaseMs }: AgentSettings,
  instance: string,
  ports: Pick<LeftOversOptions, "runner" | "bus"> & Pick<SiblingsOptions, "store" | "clock" | "logger">,
): Promise<Siblings> {
  const siblings = await Siblings.open({
    ...ports,
    party,
    instance,
    onGone: async (gone, closing) => {
      // One that was cut off from the store comes back in this time, its runs unharmed.
      await ports.clock.sleep(BACK_IN_LEASES * leaseMs, closing);
      await removeLeftOvers(ports, siblings);
      if (!(await siblings.isLiving(gone))) await removeInstanceQueues(ports.bus, party, gone);
    },
  });
  await removeLeftOvers(ports, siblings);
  return siblings;
}

function dependenciesOf(
  { knowledge, bus, settings, trust }: AgentContext,
  registration: () => Registration | undefined,
): readonly Dependency[] {
  return [
    ...portDependencies({ store: knowledge.store, bus }),
    {
      name: "registration",
      check: async () => {
        if (registration()?.isRegistered() !== true)
          throw new AppError("unavailable", "This agent is not registered as online, so it gets no work.");
      },
      fix: "It registers by itself once the knowledge store answers; if that does, see this agent's log.",
    },
    {
      name: "orchestrator",
      required: false,
      check: () =>
        requireAnyAnswer(
          orchestratorUrls(settings).map((url) => `${url}/health`),
          trust,
        ),
      fix: "See that DYNAMOS_ORCHESTRATOR_URL is the orchestrator's address (https where it serves TLS): the keys that check tokens come from there.",
    },
  ];
}

/** One that answers is enough; where none does, the first one's fault is told. */
async function requireAnyAnswer(urls: readonly string[], trust: Trust): Promise<void> {
  const outcomes = await Promise.allSettled(urls.map((url) => requireAnswer(url, trust)));
  if (outcomes.some(({ status }) => status === "fulfilled")) return;
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}

function admissionLimits(settings: AgentSettings): AdmissionLimits {
  const { DYNAMOS_MAX_RUNS_PER_USER: maxRunningPerUser, DYNAMOS_MAX_QUEUED_RUNS_PER_USER: maxQueuedPerUser } = settings;
  return {
    maxRunning: settings.DYNAMOS_MAX_RUNS,
    maxQueued: settings.DYNAMOS_MAX_QUEUED_RUNS,
    ...(maxRunningPerUser === undefined ? {} : { maxRunningPerUser }),
    ...(maxQueuedPerUser === undefined ? {} : { maxQueuedPerUser }),
  };
}
