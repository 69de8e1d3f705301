/**
 * The SDK for microservices in TypeScript: write one handler from input streams to outputs, and call
 * {@link runMicroservice}. Everything else (place in the chain, gRPC, grants, back-pressure, failures, traces, the end) is
 * done here:
 *
 * - `handler.ts` says what a handler is and gets;
 * - `chain-run.ts` runs the handler once, between the element before and the element after it;
 * - `chain-runs.ts` has several runs at once, where the chain is persistent;
 * - `chain-input.ts` is one stream coming in; `verified-grants.ts` checks the grants that came with it;
 * - `chain-settings.ts` reads the environment;
 * - `rehearsal.ts` has made-up runs before the real one, where there is time for them.
 *
 * `template/` is a microservice to copy, `docs/add-a-microservice.md` the guide.
 */
import { loadSettings } from "../../lib/config/env.ts";
import { runProgram, type ProgramContext } from "../../lib/lifecycle.ts";
import { RpcClient } from "../../lib/rpc/client.ts";
import { MicroserviceService } from "../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { REHEARSAL_LIMIT_MS } from "../../lib/rpc/rehearsal-server.ts";
import { startRpcServer } from "../../lib/rpc/server.ts";
import { implement } from "../../lib/rpc/service.ts";
import { WholeStreams } from "../../lib/rpc/whole-streams.ts";
import { startTracing } from "../../lib/telemetry/tracing.ts";
import { ChainRun } from "./chain-run.ts";
import { ChainRuns } from "./chain-runs.ts";
import type { MicroserviceDefinition } from "./handler.ts";
import { loadChainSettings, type ChainSettings } from "./chain-settings.ts";
import { rehearse } from "./rehearsal.ts";

/** How long the runs of a persistent microservice may go on after it was told to stop, and how long their ends may take then. */
const DRAIN_LIMIT_MS = 20_000;
const DRAIN_REST_MS = 2_000;

/**
 * Runs a microservice: serves one request, hands its result or its failure on, and ends the process. In a persistent chain
 * (`DYNAMOS_CHAIN_CONCURRENCY` above 1) it serves requests, several at once, until it is told to stop.
 *
 * Exit code 0 also after a failure that was handed on: the chain's sidecar reports it. Not 0: the environment is wrong, or
 * the process crashed.
 */
export async function runMicroservice(definition: MicroserviceDefinition): Promise<void> {
  const settings = loadChainSettings();
  await runProgram(definition.name, (program) => serve(definition, settings, program), {
    logLevel: settings.logLevel,
    exitWithParent: settings.exitWithParent,
    fields: { steward: settings.position.steward },
  });
}

async function serve(
  definition: MicroserviceDefinition,
  settings: ChainSettings,
  program: ProgramContext,
): Promise<void> {
  const { position, grantKeys, concurrency, isWarm } = settings;
  const { releases, logger, signal } = program;
  releases.push("traces", await startTracing(definition.name, settings.tracing));
  const next = new RpcClient({
    port: position.nextPort,
    connectLimitMs: settings.chainStartMs + (isWarm ? REHEARSAL_LIMIT_MS : 0),
    peer: position.isLast ? "The sidecar" : `The microservice after ${definition.name}`,
  });
  releases.push("connection to the next element", () => next.close());
  const options = { definition, position, next, logger, grantKeys, loadSettings: loadedOnce() };
  const runs = concurrency > 1 ? new ChainRuns(options, concurrency) : new ChainRun(options);
  if (isWarm) {
    next.connectAhead();
    await rehearse({ definition, position, logger, loadSettings, signal });
    // So whoever reaches the first element of a chain reaches one that is ready as a whole.
    await next.ready({ signal });
  }
  const whole = runs instanceof ChainRuns ? new WholeStreams((frames, call) => runs.take(frames, call)) : undefined;
  const server = await startRpcServer({
    port: position.port,
    implementations: [
      implement(MicroserviceService, { process: (frames, call) => runs.take(frames, call) }),
      ...(whole === undefined ? [] : [whole.implementation]),
    ],
  });
  releases.push("server", () => server.close());
  if (whole !== undefined) releases.push("shared calls", () => whole.close());
  next.connectAhead();
  if (runs instanceof ChainRuns) {
    // The chain's sidecar was told to stop as well, and brings nothing more: what runs may end.
    releases.push("runs", () => runs.idle(DRAIN_LIMIT_MS).then(() => runs.stop()), DRAIN_LIMIT_MS + DRAIN_REST_MS);
  } else {
    signal.addEventListener("abort", () => runs.stop(), { once: true });
    void runs.finished.then(() => program.stop());
  }
  logger.debug({ port: position.port }, "serving");
}

/** Settings are read once by each schema: a process's environment does not change, and many requests ask. */
function loadedOnce(): typeof loadSettings {
  const known = new Map<unknown, unknown>();
  return (schema) => {
    if (!known.has(schema)) known.set(schema, loadSettings(schema));
    return known.get(schema) as ReturnType<typeof loadSettings<typeof schema>>;
  };
}
