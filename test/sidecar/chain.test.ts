/** A data provider's chain: sidecar, microservices, sidecar; real processes, real gRPC, the embedded bus. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CancelSchema, type RunReport } from "../../lib/rpc/gen/dynamos/v1/run_pb.ts";
import { FrameSchema, type Failure } from "../../lib/rpc/gen/dynamos/v1/stream_pb.ts";
import { TestChain, TestSteward } from "../support/chain.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const SOURCE = "test/sdk/programs/source";
const PASS = "test/sdk/programs/pass";

test("a chain of three microservices brings its rows, attachment and notes to the return address, in order", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE }, { program: PASS }, { program: PASS }] });
  t.after(() => chain.stop());
  await chain.request();
  const outcome = await chain.outcome();

  assert.equal(outcome.case, "ended", inspect(outcome));
  assert.deepEqual(
    chain.numbers(),
    Array.from({ length: 30 }, (_, index) => BigInt(index)),
  );
  const parts = chain.parts();
  assert.deepEqual(
    parts.map(({ kind }) => kind),
    ["start", "batch", "batch", "batch", "attachment", "end"],
  );
  assert.deepEqual(
    chain.reports.map(({ state }) => state.case),
    ["ended"],
  );
  const end = parts.at(-1);
  assert.ok(end?.kind === "end");
  assert.deepEqual(end.notes, {
    madeBy: "source",
    minimumGroupSize: 1,
    passed: { VU: { rows: 30, grantedBy: "VU" } },
    passedLast: { VU: { rows: 30, grantedBy: "VU" } },
  });
  assert.deepEqual(await chain.exitCodes(), [0, 0, 0, 0], chain.log);
});

test("where the result goes elsewhere, handing it on is reported, and then its end", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE }] });
  t.after(() => chain.stop());
  await chain.bus.declareQueue("elsewhere", { kind: "run" });
  const seen: string[] = [];
  await chain.bus.consume("elsewhere", async ({ body }) => {
    seen.push(fromBinary(FrameSchema, body).body.case ?? "nothing");
    return "accept";
  });
  await chain.request({ returnAddress: "elsewhere" });
  assert.equal((await chain.outcome()).case, "ended");
  assert.deepEqual(
    chain.reports.map(({ state }) => state.case),
    ["handingOn", "ended"],
  );
  await eventually(() => seen.length === 6);
  assert.deepEqual([seen[0], seen[1], seen[5]], ["start", "chunk", "end"]);
});

/** The failure that a run was reported to end with. */
function failureOf(outcome: RunReport["state"]): Failure {
  assert.equal(outcome.case, "failed", inspect(outcome));
  assert.ok(outcome.case === "failed");
  return outcome.value;
}

/** Nothing of a failure goes to the return address, and no end either: the agent decides what follows. */
function assertNothingEnded(chain: TestChain): void {
  assert.deepEqual(
    chain.frames.filter(({ body }) => body.case === "end" || body.case === "failure"),
    [],
  );
}

const endless = { TEST_BATCHES: "1000000", TEST_REPEAT_FIRST: "true", TEST_ROWS_PER_BATCH: "4096" };

test("a microservice's failure in the middle is reported with code, party and details, and not published", async (t) => {
  const chain = await TestChain.start({
    programs: [{ program: SOURCE, environment: { TEST_FAIL_AFTER: "2" } }, { program: PASS }, { program: PASS }],
  });
  t.after(() => chain.stop());
  await chain.request();
  const failure = failureOf(await chain.outcome());
  assert.equal(failure.code, "query_invalid");
  assert.equal(failure.party, "VU");
  assert.equal(failure.detail, "It fails as the test wants it.");
  assert.deepEqual(JSON.parse(failure.detailsJson), { line: 7 });
  assertNothingEnded(chain);
  assert.deepEqual(await chain.exitCodes(), [0, 0, 0, 0], chain.log);
});

for (const victim of [1, 2, 3]) {
  test(`kill -9 of microservice ${victim} of three in the middle is job_failed, and the others end`, async (t) => {
    const chain = await TestChain.start({
      programs: [{ program: SOURCE, environment: endless }, { program: PASS }, { program: PASS }],
    });
    t.after(() => chain.stop());
    await chain.request();
    await eventually(() => chain.frames.length > 5);
    chain.processes[victim]?.kill("SIGKILL");
    const failure = failureOf(await chain.outcome());
    assert.equal(failure.code, "job_failed");
    assert.equal(failure.party, "VU");
    assert.equal(failure.retryable, true);
    assertNothingEnded(chain);
    const codes = await chain.exitCodes();
    assert.deepEqual(
      codes,
      codes.map((_, index) => (index === victim ? "SIGKILL" : 0)),
      chain.log,
    );
  });
}

test("a cancel ends the chain with the reason it brings", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE, environment: endless }, { program: PASS }] });
  t.after(() => chain.stop());
  await chain.request();
  await eventually(() => chain.frames.length > 5);
  const reason = { code: "agreement_gone", party: "VU", detail: "The agreement went.", retryable: false };
  const body = toBinary(CancelSchema, create(CancelSchema, { requestId: chain.requestId, reason }));
  await chain.bus.publish(chain.runName, { type: "cancel", body });
  const failure = failureOf(await chain.outcome());
  assert.equal(failure.code, "agreement_gone");
  assertNothingEnded(chain);
  assert.deepEqual(await chain.exitCodes(), [0, 0, 0], chain.log);
});

test("the deadline ends a chain that would go on", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE, environment: endless }, { program: PASS }] });
  t.after(() => chain.stop());
  await chain.request({ deadlineMs: BigInt(Date.now() + 2500) });
  assert.equal(failureOf(await chain.outcome()).code, "deadline_exceeded");
  assertNothingEnded(chain);
});

test("a grant of another key, or for another request, or that has expired, opens nothing", async (t) => {
  const forger = await TestSteward.make("VU");
  const forge = {
    forbidden: (chain: TestChain) => forger.grant(chain.requestId),
    "forbidden ": (chain: TestChain) => chain.steward.grant("00000000-0000-0000-0000-000000000000"),
    deadline_exceeded: (chain: TestChain) => chain.steward.grant(chain.requestId, { deadlineMs: Date.now() - 1 }),
  };
  for (const [code, grant] of Object.entries(forge)) {
    const chain = await TestChain.start({ programs: [{ program: SOURCE }] });
    t.after(() => chain.stop());
    await chain.request({ grant: await grant(chain) });
    assert.equal(failureOf(await chain.outcome()).code, code.trim());
    assert.deepEqual(chain.frames, []);
  }
});

test("a receiver that settles nothing stops the source; when it settles again the rest comes", async (t) => {
  const progress = join(await temporaryFolder(), "progress");
  writeFileSync(progress, "");
  const made = (): number => readFileSync(progress, "utf8").length;
  const chain = await TestChain.start({
    programs: [
      {
        program: SOURCE,
        environment: { ...endless, TEST_BATCHES: "300", TEST_ROWS_PER_BATCH: "32768", TEST_PROGRESS_FILE: progress },
      },
      { program: PASS },
    ],
  });
  t.after(() => chain.stop());
  chain.isTaking = false;
  await chain.request({ credits: 5 });
  await eventually(() => chunks(chain) === 5);
  await isSteady(made);
  assert.equal(chunks(chain), 5, "never more chunks than credits are unsettled");
  assert.ok(made() < 60, `${made()} batches were made for a receiver that took 5 chunks`);
  await chain.takeAgain();
  assert.equal((await chain.outcome()).case, "ended");
  assert.equal(made(), 300);
});

test("a receiver that has stalled for good fails the run, and the failure names the setting", async (t) => {
  const chain = await TestChain.start({
    programs: [{ program: SOURCE, environment: endless }],
    sidecarEnvironment: { DYNAMOS_STALL_TIMEOUT_MS: "300" },
  });
  t.after(() => chain.stop());
  chain.isTaking = false;
  await chain.request({ credits: 3 });
  const failure = failureOf(await chain.outcome());
  assert.equal(failure.code, "time_limit_exceeded");
  assert.match(failure.detail, /DYNAMOS_STALL_TIMEOUT_MS/);
  assert.equal(chunks(chain), 3);
});

test("a return address that has gone fails the run at the report address", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE }] });
  t.after(() => chain.stop());
  await chain.request({ returnAddress: "nobody" });
  assert.equal(failureOf(await chain.outcome()).code, "not_found");
  assert.deepEqual(await chain.exitCodes(), [0, 0], chain.log);
});

test("without a report address that exists the sidecar ends with an exit code other than 0", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE }] });
  t.after(() => chain.stop());
  await chain.request({ returnAddress: "nobody", reportAddress: "nobody" });
  assert.equal((await chain.exitCodes())[0], 1);
});

test("one trace goes from the request through the chain to the result", async (t) => {
  const chain = await TestChain.start({ programs: [{ program: SOURCE }, { program: PASS }] });
  t.after(() => chain.stop());
  await chain.request();
  await chain.outcome();
  const start = chain.frames[0]?.body;
  assert.ok(start?.case === "start");
  assert.match(start.value.traceparent, /^00-0af7651916cd43dd8448eb211c80319c-/);
  assert.equal(start.value.creditQueue, chain.runName);
});

function chunks(chain: TestChain): number {
  return chain.frames.filter(({ body }) => body.case === "chunk").length;
}

/** Resolves when a number has not changed over twenty looks. */
async function isSteady(look: () => number): Promise<void> {
  let last = look();
  let same = 0;
  await eventually(() => {
    same = look() === last ? same + 1 : 0;
    last = look();
    return same >= 20;
  });
}
