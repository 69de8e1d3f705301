/** Wiring: the bus on one side, the chain's gRPC on the other, the relay between them. */
import { openMessageBus } from "../lib/bus/open.ts";
import { systemClock } from "../lib/clock.ts";
import type { ProgramContext } from "../lib/lifecycle.ts";
import { RpcClient } from "../lib/rpc/client.ts";
import { SidecarService } from "../lib/rpc/gen/dynamos/v1/sidecar_pb.ts";
import { startRpcServer } from "../lib/rpc/server.ts";
import { implement } from "../lib/rpc/service.ts";
import { startTracing } from "../lib/telemetry/tracing.ts";
import { ChainRelay, prefetchOf } from "./chain-relay.ts";
import type { SidecarSettings } from "./config.ts";

/** Starts the relay; the program stops by itself when the run is over: exit code 0 when its outcome was confirmed, else 1. */
export async function startSidecar(settings: SidecarSettings, program: ProgramContext): Promise<void> {
  const { releases, logger, signal } = program;
  const { position, runName, credits, requestTimeoutMs, stallTimeoutMs } = settings;
  releases.push("traces", await startTracing("sidecar", settings.tracing));
  const bus = await openMessageBus(settings.busUrl);
  releases.push("message bus", () => bus.close());
  const first = new RpcClient({
    port: position.firstMicroservicePort,
    peer: "The chain's first microservice",
    connectLimitMs: settings.chainStartMs,
  });
  releases.push("connection to the first microservice", () => first.close());
  first.connectAhead();
  const { steward } = position;
  const relay = new ChainRelay({
    bus,
    first,
    runName,
    steward,
    prefetch: prefetchOf(credits, position.dataProviderCount),
    requestTimeoutMs,
    stallTimeoutMs,
    logger,
    clock: systemClock,
  });
  const server = await startRpcServer({
    port: position.sidecarPort,
    implementations: [implement(SidecarService, { output: (frames, call) => relay.takeOutput(frames, call) })],
  });
  releases.push("server", () => server.close());
  signal.addEventListener("abort", () => relay.stop(), { once: true });
  void relay.run().then((isConfirmed) => program.stop(isConfirmed ? 0 : 1));
}
