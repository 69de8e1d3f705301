import assert from "node:assert/strict";
import { test } from "node:test";
import { whenAvailable } from "../../../cli/credentials/when-available.ts";
import type { Clock } from "../../../lib/clock.ts";
import { AppError } from "../../../lib/errors.ts";

/** A clock on which time passes by sleeping only. */
function sleepingClock(): Clock {
  let now = 0;
  return {
    now: () => now,
    sleep: (ms) => {
      now += ms;
      return Promise.resolve();
    },
  };
}

/** Fails so often, and then gives the number of attempts. */
function failing(times: number, code: "unavailable" | "access_refused"): () => Promise<number> {
  let attempts = 0;
  return () => {
    attempts += 1;
    return attempts > times ? Promise.resolve(attempts) : Promise.reject(new AppError(code, `attempt ${attempts}`));
  };
}

test("a server that is not there yet is waited for", async () => {
  assert.equal(await whenAvailable(failing(3, "unavailable"), 5000, sleepingClock()), 4);
});

test("waiting has an end, and tells the last reason", async () => {
  await assert.rejects(whenAvailable(failing(10, "unavailable"), 5000, sleepingClock()), { message: "attempt 6" });
});

test("without a time to wait there is one attempt", async () => {
  await assert.rejects(whenAvailable(failing(1, "unavailable"), 0, sleepingClock()), { message: "attempt 1" });
});

test("whoever is refused is not let in by waiting", async () => {
  await assert.rejects(whenAvailable(failing(1, "access_refused"), 5000, sleepingClock()), { message: "attempt 1" });
});
