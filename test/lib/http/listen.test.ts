import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import { fastify } from "fastify";
import { listenBySettings } from "../../../lib/http/listen.ts";
import { serveMetrics } from "../../../lib/http/metrics-server.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";
import { dynamos } from "../../support/command.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** A port of 127.0.0.1 on which another program listens. */
async function takenPort(t: TestContext): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}

function listenOn(t: TestContext, DYNAMOS_HOST: string, DYNAMOS_PORT: number): Promise<string> {
  const server = fastify();
  t.after(() => server.close());
  return listenBySettings({ DYNAMOS_HOST, DYNAMOS_PORT }, (address) => server.listen(address));
}

describe("a service that cannot listen", () => {
  test("names host and port that another program has, and the setting to change", async (t) => {
    const port = await takenPort(t);
    await assert.rejects(listenOn(t, "127.0.0.1", port), {
      code: "unavailable",
      message: `Port ${String(port)} of 127.0.0.1 is in use by another program: end that one, or set DYNAMOS_PORT to another port.`,
      details: { host: "127.0.0.1", port },
    });
  });

  test("names an address that is none of this machine's, and the setting to change", async (t) => {
    // Of the block for documentation (RFC 5737).
    await assert.rejects(listenOn(t, "192.0.2.1", 0), {
      code: "configuration_invalid",
      message: /192\.0\.2\.1 is no address of this machine: set DYNAMOS_HOST/,
    });
  });

  test("names the setting of a program that offers metrics alone", async (t) => {
    const port = await takenPort(t);
    const logger = createLogger("test", {}, "info", { write: () => undefined });
    const metrics = { contentType: "text/plain", scrape: async () => "" } as Parameters<typeof serveMetrics>[0];
    const releases = { push: () => undefined };
    await assert.rejects(serveMetrics(metrics, { host: "127.0.0.1", port, logger, releases }), {
      code: "unavailable",
      message: /set DYNAMOS_METRICS_PORT/,
    });
  });

  test("ends dynamos up with that error, and not with one inside the system", async (t) => {
    const port = String(await takenPort(t));
    const { code, stderr } = await dynamos("up", "--port", port, "--state", join(await temporaryFolder(), "state"));
    assert.equal(code, 1);
    assert.ok(stderr.includes(`"code":"unavailable","message":"Port ${port} of 127.0.0.1 is in use`), stderr);
  });
});
