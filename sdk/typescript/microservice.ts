/**
 * The SDK for microservices in TypeScript: write one handler from input streams to outputs, and call
 * {@link runMicroservice}. Everything else (place in the chain, gRPC, grants, back-pressure, failures, traces, the end) is
 * done here:
 *
 * - `handler.ts` says what a handler is and gets;
 * - `chain-run.ts` runs the handler once, between the element before and the element after it;
 * - `chain-input.ts` is one stream coming in; `verified-grants.ts` checks the grants that came with it;
 * - `chain-settings.ts` reads the environment.
 *
 * `template/` is a microservice to copy, `docs/add-a-microservice.md` the guide.
 */
import { loadSettings } from "../../lib/config/env.ts";
import { runProgram, type ProgramContext } from "../../lib/lifecycle.ts";
import { RpcClient } from "../../lib/rpc/client.ts";
import { MicroserviceService } from "../../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { startRpcServer } from "../../lib/rpc/server.ts";
import { implement } from "../../lib/rpc/service.ts";
import { startTracing } from "../../lib/telemetry/tracing.ts";
import { ChainRun } from "./chain-run.ts";
import type { MicroserviceDefinition } from "./handler.ts";
import { loadChainSettings, type ChainSettings } from "./chain-settings.ts";

/**
 * Runs a microservice: serves one request, hands its result or its failure on, and ends the process.
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
  const { position, grantKeys } = settings;
  const { releases, logger, signal } = program;
  releases.push("traces", await startTracing(definition.name, settings.tracing));
  const next = new RpcClient({
    port: position.nextPort,
    connectLimitMs: settings.chainStartMs,
    peer: position.isLast ? "The sidecar" : `The microservice after ${definition.name}`,
  });
  releases.push("connection to the next element", () => next.close());
  const run = new ChainRun({ definition, position, next, logger, grantKeys, loadSettings });
  const server = await startRpcServer({
    port: position.port,
    implementations: [implement(MicroserviceService, { process: (frames, call) => run.take(frames, call) })],
  });
  releases.push("server", () => server.close());
  next.connectAhead();
  signal.addEventListener("abort", () => run.stop(), { once: true });
  void run.finished.then(() => program.stop());
  logger.debug({ port: position.port }, "serving");
}
