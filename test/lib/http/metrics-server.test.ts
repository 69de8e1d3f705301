/** The metrics of a program without an HTTP server of its own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { serveMetrics } from "../../../lib/http/metrics-server.ts";
import { ReleaseStack } from "../../../lib/lifecycle.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { dynamosMeter, startMetrics } from "../../../lib/telemetry/metrics.ts";

test("are offered at /metrics, with what instruments made after the start have counted, and nothing else is", async () => {
  const releases = new ReleaseStack();
  const logger = createLogger("test", {}, "silent");
  const metrics = startMetrics({ DYNAMOS_METRICS: "on" }, releases);
  assert.ok(metrics);
  const url = await serveMetrics(metrics, { host: "127.0.0.1", port: 0, logger, releases });
  dynamosMeter().createCounter("dynamos.bus.reconnects").add(2);
  const scraped = await fetch(`${url}/metrics`);
  const text = await scraped.text();
  assert.match(scraped.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
  assert.match(text, /^dynamos_bus_reconnects_total 2$/m);
  assert.match(text, /^process_memory_usage_bytes \d+$/m);
  assert.equal((await fetch(`${url}/other`)).status, 404);
  assert.equal((await fetch(`${url}/metrics`, { method: "POST" })).status, 404);
  await releases.releaseAll();
  await assert.rejects(fetch(`${url}/metrics`));
});

test("are not taken where the setting says so", () => {
  assert.equal(startMetrics({ DYNAMOS_METRICS: "off" }, new ReleaseStack()), undefined);
});
