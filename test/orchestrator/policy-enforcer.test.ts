import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { decodeJson, encodeJson } from "../../lib/bus/json.ts";
import { openMessageBus } from "../../lib/bus/open.ts";
import { POLICY_ENFORCER_QUEUE } from "../../lib/bus/queues.ts";
import { RpcClient } from "../../lib/bus/rpc.ts";
import { baseEnvironment } from "../../lib/config/env.ts";
import { agreementKeys } from "../../lib/knowledge/keys.ts";
import { KnowledgeBase } from "../../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { ReleaseStack } from "../../lib/lifecycle.ts";
import { ValidationResponse } from "../../lib/messages.ts";
import { eventually } from "../support/eventually.ts";
import { agreementOf, ANALYST } from "../support/front-door.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** The enforcer as a process of its own, and what speaks to it. */
async function startEnforcer(t: TestContext) {
  const folder = await temporaryFolder();
  const environment = {
    DYNAMOS_STORE: `sqlite:${join(folder, "store.db")}`,
    DYNAMOS_BUS: `embedded:${join(folder, "bus.db")}`,
  };
  const program = fileURLToPath(new URL("../../orchestrator/policy-enforcer/main.js", import.meta.url));
  const child = spawn(process.execPath, [program], {
    env: { ...baseEnvironment(), ...environment, DYNAMOS_EXIT_WITH_PARENT: "true" },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  const releases = new ReleaseStack();
  t.after(() => releases.releaseAll());
  releases.push("enforcer", async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const lines: string[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
  await eventually(() => lines.some((line) => line.includes("policy enforcer is ready")), { timeoutMs: 20_000 });
  const store = await openKnowledgeStore(environment.DYNAMOS_STORE);
  releases.push("store", () => store.close());
  const bus = await openMessageBus(environment.DYNAMOS_BUS);
  releases.push("bus", () => bus.close());
  const rpc = new RpcClient(bus, { replyQueue: "test-in-1" });
  releases.push("rpc", () => rpc.close());
  const ask = async (question: unknown) =>
    decodeJson(await rpc.call(POLICY_ENFORCER_QUEUE, "requestApproval", encodeJson(question)), ValidationResponse);
  return { child, exited, knowledge: new KnowledgeBase(store), bus, ask };
}

const QUESTION = { type: "sqlDataRequest", user: ANALYST, dataProviders: ["VU", "RUG"] };

test("the enforcer answers over the bus from the agreements as they are at that moment, and ends when asked", async (t) => {
  const { child, exited, knowledge, ask } = await startEnforcer(t);
  const revision = await knowledge.put("agreements", agreementOf("VU"));
  const { stewards } = await ask(QUESTION);
  assert.deepEqual(stewards[0], {
    steward: "VU",
    allowedArchetypes: ["computeToData", "dataThroughTtp"],
    allowedComputeProviders: ["SURF"],
    dataSets: ["wageGap"],
    agreementRevision: revision,
  });
  assert.equal(stewards[1]?.refusal?.code, "no_agreement");
  await knowledge.delete("agreements", "VU");
  assert.equal((await ask(QUESTION)).stewards[0]?.refusal?.code, "no_agreement");
  child.kill("SIGTERM");
  assert.equal(await exited, 0);
});

test("a malformed question, or a malformed agreement, is answered with the failure, and the next question works", async (t) => {
  const { knowledge, bus, ask } = await startEnforcer(t);
  assert.equal((await ask({ type: "sqlDataRequest" })).failure?.code, "bad_request");
  await knowledge.store.put(agreementKeys.key({ steward: "VU" }), { name: "VU" });
  const { failure } = await ask(QUESTION);
  assert.equal(failure?.code, "configuration_invalid");
  assert.match(failure.detail, /\/policyEnforcer\/agreements\/VU/);
  await knowledge.put("agreements", agreementOf("VU"));
  assert.equal((await ask(QUESTION)).failure, undefined);
  const letters = await eventually(async () => {
    const found = await bus.deadLetters(10);
    return found.length === 2 ? found : undefined;
  });
  assert.deepEqual(
    letters.map(({ reason }) => reason),
    ["rejected", "rejected"],
  );
});
