import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Admission, type AdmissionSlot } from "../../agent/admission.ts";
import { SeededRandom } from "../support/random.ts";
import { AppError } from "../../lib/errors.ts";

const never = new AbortController().signal;
/** After all promises that are ready. */
const settled = (): Promise<void> => new Promise(setImmediate);

describe("admission", () => {
  test("lets as many run as the limit says, and the next when one ends", async () => {
    const admission = new Admission({ maxRunning: 2, maxQueued: 10, maxRunningPerUser: 2 });
    const first = await admission.enter("anna", never);
    await admission.enter("anna", never);
    const third = admission.enter("anna", never);
    assert.deepEqual(admission.load, { running: 2, queued: 1 });
    first.release();
    await third;
    assert.deepEqual(admission.load, { running: 2, queued: 0 });
  });

  test("takes turns between users, so that many requests of one do not hold up another", async () => {
    const admission = new Admission({ maxRunning: 1, maxQueued: 10 });
    const running = await admission.enter("anna", never);
    const order: string[] = [];
    const enter = (user: string, label: string): Promise<void> =>
      admission.enter(user, never).then((slot) => {
        order.push(label);
        slot.release();
      });
    const all = [enter("anna", "anna 1"), enter("anna", "anna 2"), enter("anna", "anna 3"), enter("bert", "bert 1")];
    running.release();
    await Promise.all(all);
    assert.deepEqual(order, ["anna 1", "bert 1", "anna 2", "anna 3"]);
  });

  test("leaves a slot to others: heavy requests of one user do not hold up another", async () => {
    const admission = new Admission({ maxRunning: 3, maxQueued: 10 });
    const heavy = [await admission.enter("anna", never), await admission.enter("anna", never)];
    const third = admission.enter("anna", never);
    const light = await admission.enter("bert", never);
    assert.deepEqual(admission.load, { running: 3, queued: 1 });
    light.release();
    assert.deepEqual(admission.load, { running: 2, queued: 1 });
    heavy[0]?.release();
    await third;
    assert.deepEqual(admission.load, { running: 2, queued: 0 });
  });

  test("leaves room in the queue to others, and names the limit that was met", async () => {
    const admission = new Admission({ maxRunning: 1, maxQueued: 4 });
    await admission.enter("anna", never);
    for (let i = 0; i < 2; i += 1) void admission.enter("anna", never);
    await assert.rejects(admission.enter("anna", never), {
      code: "rate_limited",
      message: /DYNAMOS_MAX_QUEUED_RUNS_PER_USER/,
    });
    for (let i = 0; i < 2; i += 1) void admission.enter("bert", never);
    await assert.rejects(admission.enter("cem", never), {
      code: "rate_limited",
      message: /\(DYNAMOS_MAX_QUEUED_RUNS\)/,
    });
  });

  test("serves everybody in the end, whatever the order of coming and going (random, seeded)", async () => {
    for (let seed = 1; seed <= 50; seed += 1) {
      const random = new SeededRandom(seed);
      const admission = new Admission({ maxRunning: 1 + random.int(0, 3), maxQueued: 1000 });
      const held: AdmissionSlot[] = [];
      let entered = 0;
      for (let i = 0; i < 60; i += 1) {
        void admission.enter(`user ${String(random.int(0, 2))}`, never).then((slot) => {
          entered += 1;
          held.push(slot);
        });
        await settled();
        if (random.chance(0.5)) held.splice(random.int(0, held.length), 1)[0]?.release();
        await settled();
      }
      while (held.length > 0) {
        held.pop()?.release();
        await settled();
      }
      assert.deepEqual([entered, admission.load], [60, { running: 0, queued: 0 }], `seed ${String(seed)}`);
    }
  });

  test("refuses what goes beyond the queue, with a time to come back", async () => {
    const admission = new Admission({ maxRunning: 1, maxQueued: 1 });
    await admission.enter("anna", never);
    void admission.enter("anna", never);
    await assert.rejects(admission.enter("bert", never), (error: AppError) => {
      assert.equal(error.code, "rate_limited");
      assert.equal(error.details["retryAfterSeconds"], 5);
      return true;
    });
  });

  test("gives the place in the queue up when the request is cancelled", async () => {
    const admission = new Admission({ maxRunning: 1, maxQueued: 1 });
    const running = await admission.enter("anna", never);
    const cancel = new AbortController();
    const waiting = admission.enter("bert", cancel.signal);
    cancel.abort(new AppError("cancelled", "The caller is gone."));
    await assert.rejects(waiting, { code: "cancelled" });
    assert.deepEqual(admission.load, { running: 1, queued: 0 });
    running.release();
    assert.deepEqual(admission.load, { running: 0, queued: 0 });
  });

  test("counts a slot once, however often it is given back", async () => {
    const admission = new Admission({ maxRunning: 1, maxQueued: 5 });
    const slot: AdmissionSlot = await admission.enter("anna", never);
    slot.release();
    slot.release();
    assert.deepEqual(admission.load, { running: 0, queued: 0 });
  });
});
