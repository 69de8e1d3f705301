/** What `/ready` says of dependencies that come and go. */
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { systemClock, type Clock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";
import { readinessOf, type Dependency } from "../../../lib/http/readiness.ts";
import { createHttpServer } from "../../../lib/http/server.ts";
import { createLogger } from "../../../lib/telemetry/logger.ts";

const FIX = "Start it.";

/** A clock that stands still until it is moved. */
function standingClock() {
  const state = { nowMs: Date.parse("2026-01-01T00:00:00Z") };
  const clock: Clock = { ...systemClock, now: () => state.nowMs };
  return { clock, move: (ms: number) => (state.nowMs += ms) };
}

function dependency(name: string, check: () => Promise<void>, required = true): Dependency {
  return { name, required, check, fix: FIX };
}

async function served(t: TestContext, dependencies: readonly Dependency[], limitMs?: number) {
  const readiness = readinessOf(dependencies, {
    clock: systemClock,
    ...(limitMs === undefined ? {} : { limitMs }),
  });
  const server = createHttpServer({ logger: createLogger("test", {}, "silent"), service: "test", readiness });
  const url = await server.listen({ host: "127.0.0.1", port: 0 });
  t.after(() => server.close());
  return async () => {
    const response = await fetch(`${url}/ready`);
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  };
}

describe("readiness", () => {
  test("names what is away, since when, and what to do, and says when it is back", async () => {
    const { clock, move } = standingClock();
    let isAway = false;
    const check = async (): Promise<void> => {
      if (isAway) throw new AppError("unavailable", "The file is locked.");
    };
    const readiness = readinessOf([dependency("knowledge store", check)], { clock });
    const since = "2026-01-01T00:00:00.000Z";
    assert.deepEqual(await readiness(), [{ name: "knowledge store", ok: true, required: true, since }]);
    move(60_000);
    assert.equal((await readiness())[0]?.since, since);
    isAway = true;
    const away = { name: "knowledge store", ok: false, required: true, detail: "The file is locked.", fix: FIX };
    assert.deepEqual(await readiness(), [{ ...away, since: "2026-01-01T00:01:00.000Z" }]);
    move(5_000);
    assert.deepEqual(await readiness(), [{ ...away, since: "2026-01-01T00:01:00.000Z" }]);
    isAway = false;
    assert.deepEqual(await readiness(), [
      { name: "knowledge store", ok: true, required: true, since: "2026-01-01T00:01:05.000Z" },
    ]);
  });

  test("is answered in time when a dependency hangs, which is asked once for all probes", async () => {
    let asked = 0;
    let letGo = (): void => {};
    const check = (): Promise<void> => {
      asked++;
      return new Promise((resolve) => (letGo = resolve));
    };
    const readiness = readinessOf([dependency("message bus", check)], { clock: systemClock, limitMs: 30 });
    for (const [status] of await Promise.all([readiness(), readiness()])) {
      assert.equal(status?.ok, false);
      assert.match(status?.detail ?? "", /not answered within 30 ms/);
    }
    assert.equal((await readiness())[0]?.ok, false);
    assert.equal(asked, 1);
    letGo();
    await new Promise(setImmediate);
    const again = readiness();
    letGo();
    assert.equal((await again)[0]?.ok, true);
  });

  test("is 503 without a required dependency, and 200 without another, which is named all the same", async (t) => {
    const down = new Set<string>();
    const named = (name: string, required: boolean): Dependency =>
      dependency(
        name,
        async () => {
          if (down.has(name)) throw new AppError("unavailable", `${name} is away.`);
        },
        required,
      );
    const ready = await served(t, [named("store", true), named("enforcer", false)]);
    assert.deepEqual(
      [(await ready()).status, (await ready()).body["status"], (await ready()).body["service"]],
      [200, "ready", "test"],
    );
    down.add("enforcer");
    const without = await ready();
    assert.equal(without.status, 200);
    assert.match(JSON.stringify(without.body), /enforcer is away/);
    down.add("store");
    const notReady = await ready();
    assert.deepEqual([notReady.status, notReady.body["status"]], [503, "not ready"]);
  });

  test("tells nothing of what an unexpected error says", async () => {
    const check = async (): Promise<void> => {
      throw new Error("amqp://user:secret@broker");
    };
    const [status] = await readinessOf([dependency("message bus", check)], { clock: systemClock })();
    assert.doesNotMatch(JSON.stringify(status), /secret/);
  });
});
