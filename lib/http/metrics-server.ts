/** `/metrics` for a program that has no HTTP server of its own: Node's plain one, since a framework costs memory. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { toAppError } from "../errors.ts";
import type { ReleaseStack } from "../lifecycle.ts";
import type { Logger } from "../telemetry/logger.ts";
import { listenAt } from "./listen.ts";
import type { RunningMetrics } from "../telemetry/metrics.ts";

/** A scraper sends a head and no body. */
const HEAD_LIMIT_MS = 5_000;

/** Where to listen, and what is needed for it. */
export interface MetricsServerOptions {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly logger: Logger;
  readonly releases: Pick<ReleaseStack, "push">;
}

/** Answers `GET /metrics` until its release; resolves with the base URL. */
export async function serveMetrics(metrics: RunningMetrics, options: MetricsServerOptions): Promise<string> {
  const { host, port, logger, releases } = options;
  const server = createServer({ requestTimeout: HEAD_LIMIT_MS, headersTimeout: HEAD_LIMIT_MS }, (request, response) => {
    if (request.method !== "GET" || request.url?.split("?")[0] !== "/metrics") {
      response.writeHead(404).end();
      return;
    }
    metrics.scrape().then(
      (text) => response.writeHead(200, { "content-type": metrics.contentType }).end(text),
      (thrown: unknown) => {
        logger.error({ error: toAppError(thrown) }, "metrics could not be gathered");
        response.writeHead(500).end();
      },
    );
  });
  const listen = (): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, host, resolve);
    });
  await listenAt({ host, port, hostSetting: "DYNAMOS_HOST", portSetting: "DYNAMOS_METRICS_PORT" }, listen);
  releases.push("metrics server", () => {
    server.close();
    server.closeAllConnections();
  });
  return `http://${host}:${String((server.address() as AddressInfo).port)}`;
}
