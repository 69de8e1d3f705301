/** Wiring: the bus on one side, the chain's gRPC on the other, the relay between them. */
import { openMessageBus } from "../lib/bus/open.ts";
import { systemClock } from "../lib/clock.ts";
import type { ProgramContext } from "../lib/lifecycle.ts";
import { RpcClient } from "../lib/rpc/client.ts";
import type { StreamReceipt } from "../lib/rpc/gen/dynamos/v1/microservice_pb.ts";
import { SidecarService } from "../lib/rpc/gen/dynamos/v1/sidecar_pb.ts";
import type { Frame } from "../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { REHEARSAL_LIMIT_MS } from "../lib/rpc/rehearsal-server.ts";
import { startRpcServer } from "../lib/rpc/server.ts";
import { implement, type CallContext } from "../lib/rpc/service.ts";
import { WholeStreams } from "../lib/rpc/whole-streams.ts";
import { startTracing } from "../lib/telemetry/tracing.ts";
import { prefetchOf, runsWithRoom } from "./chain-relay.ts";
import type { SidecarSettings } from "./config.ts";
import { PersistentChain } from "./persistent-chain.ts";
import { rehearse } from "./rehearsal.ts";
import { SingleRun } from "./single-run.ts";

/** How long the runs of a persistent chain may go on after it was told to stop. */
const DRAIN_LIMIT_MS = 25_000;

/**
 * Starts the relay. The program stops by itself: when its one run is over, with exit code 0 when the outcome was confirmed, else
 * 1; where the chain is persistent, when it is idle or too old, with 0.
 */
export async function startSidecar(settings: SidecarSettings, program: ProgramContext): Promise<void> {
  const { releases, logger, signal } = program;
  const { position, runName, persistent, credits, requestTimeoutMs, stallTimeoutMs } = settings;
  releases.push("traces", await startTracing("sidecar", settings.tracing));
  const bus = await openMessageBus(settings.busUrl);
  releases.push("message bus", () => bus.close());
  const first = new RpcClient({
    port: position.firstMicroservicePort,
    peer: "The chain's first microservice",
    connectLimitMs: settings.chainStartMs + (settings.isWarm ? REHEARSAL_LIMIT_MS : 0),
  });
  releases.push("connection to the first microservice", () => first.close());
  first.connectAhead();
  const shared = { bus, first, steward: position.steward, stallTimeoutMs, logger, clock: systemClock };
  const prefetch = prefetchOf(credits, position.dataProviderCount);
  const runs = runsWithRoom(persistent?.concurrency ?? 1, prefetch);
  const rehearsal = settings.isWarm
    ? (broken: AbortSignal): Promise<void> => rehearse({ ...shared, position }, broken)
    : undefined;
  const chain =
    persistent === undefined
      ? new SingleRun({ ...shared, runName, prefetch, requestTimeoutMs, rehearsal })
      : new PersistentChain({
          ...shared,
          ...persistent,
          jobName: runName,
          concurrency: runs,
          prefetch: prefetch * runs,
        });
  const takeOutput = (frames: AsyncIterable<Frame>, call: CallContext): Promise<StreamReceipt> =>
    chain.takeOutput(frames, call);
  const whole = new WholeStreams(takeOutput);
  const server = await startRpcServer({
    port: position.sidecarPort,
    implementations: [
      implement(SidecarService, { output: takeOutput }),
      ...(persistent === undefined ? [] : [whole.implementation]),
    ],
  });
  releases.push("server", () => server.close());
  releases.push("shared calls", () => whole.close());
  signal.addEventListener("abort", () => chain.stop(), { once: true });
  const exitCode = chain.run();
  // A persistent chain that is told to stop lets its runs end.
  if (persistent !== undefined) releases.push("runs", async () => void (await exitCode), DRAIN_LIMIT_MS);
  void exitCode.then((code) => program.stop(code));
}
