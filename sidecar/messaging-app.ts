/** Wiring of the messaging sidecar: the bus on one side, gRPC on loopback on the other. */
import { openMessageBus } from "../lib/bus/open.ts";
import { systemClock } from "../lib/clock.ts";
import { AppError } from "../lib/errors.ts";
import { serveMetrics } from "../lib/http/metrics-server.ts";
import type { ProgramContext } from "../lib/lifecycle.ts";
import { formatRpcAddress, parseRpcAddress } from "../lib/rpc/address.ts";
import { startRpcServer } from "../lib/rpc/server.ts";
import { startMetrics } from "../lib/telemetry/metrics.ts";
import type { MessagingSettings } from "./messaging-config.ts";
import { MessagingService } from "./messaging-service.ts";

/** A client that gives no sign of life for twice as long has gone: its deliveries are others'. */
const KEEPALIVE_MS = 15_000;

/**
 * Serves until the program stops. It ends after its clients: told to stop, it says so by the health service, and serves on until
 * nobody publishes or consumes any more, or the drain's time is over. Logs the URL that clients open the bus with.
 */
export async function startMessagingSidecar(settings: MessagingSettings, program: ProgramContext): Promise<void> {
  const { releases, logger, signal } = program;
  const address = parseRpcAddress(settings.DYNAMOS_SIDECAR_LISTEN);
  if (settings.DYNAMOS_BUS.startsWith("sidecar:")) {
    throw new AppError("configuration_invalid", "DYNAMOS_BUS names a sidecar; a sidecar's own bus is the real one.");
  }
  const metricsUrl = await offerMetrics(settings, program);
  const bus = await openMessageBus(settings.DYNAMOS_BUS);
  releases.push("message bus", () => bus.close());
  const service = new MessagingService({ bus, logger });
  const server = await startRpcServer({
    ...address,
    keepaliveMs: KEEPALIVE_MS,
    implementations: [service.implementation],
  });
  releases.push("server", () => server.close(0));
  const drainMs = settings.DYNAMOS_DRAIN_MS;
  const drain = async (): Promise<void> => {
    const over = new AbortController();
    const limit = systemClock.sleep(drainMs, over.signal).then(
      () => logger.warn({ clients: service.openStreams, drainMs }, "stops although it still has clients"),
      // Nobody was left before.
      () => undefined,
    );
    await Promise.race([service.idle(), limit]);
    over.abort();
  };
  releases.push("clients", drain, drainMs + 1000);
  signal.addEventListener("abort", () => server.stopServing(), { once: true });
  const url = `sidecar:${formatRpcAddress(server.address)}`;
  logger.info({ url, ...(metricsUrl === undefined ? {} : { metricsUrl }) }, "messaging sidecar is ready");
}

async function offerMetrics(
  settings: MessagingSettings,
  { releases, logger }: ProgramContext,
): Promise<string | undefined> {
  const { DYNAMOS_HOST: host, DYNAMOS_METRICS_PORT: port } = settings;
  if (port === undefined) return undefined;
  const metrics = startMetrics({ DYNAMOS_METRICS: "on" }, releases);
  return metrics && serveMetrics(metrics, { host, port, logger, releases });
}
