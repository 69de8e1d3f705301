import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import { INVALID_SPAN_CONTEXT, ROOT_CONTEXT, trace, type Tracer } from "@opentelemetry/api";
import type { KnowledgeBase } from "../../../lib/knowledge/knowledge-base.ts";
import { AppError } from "../../../lib/errors.ts";
import { ANALYST } from "../../support/exchange.ts";
import { openAgentDoor } from "../../support/agent-door.ts";
import { eventually } from "../../support/eventually.ts";
import { numbersAgreement, SUM_QUESTION } from "../../support/numbers.ts";

const ROWS = { type: "sqlDataRequest", query: "SELECT kind, amount FROM Numbers" };

/** Holds the reading of agreements up until it is let go. */
function holdAgreements(knowledge: KnowledgeBase): { readonly asked: () => boolean; readonly letGo: () => void } {
  const get = knowledge.get.bind(knowledge);
  let isAsked = false;
  let letGo = (): void => {};
  const held = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  knowledge.get = async (kind, name) => {
    const found = await get(kind, name);
    if (kind !== "agreements") return found;
    isAsked = true;
    await held;
    return found;
  };
  return { asked: () => isAsked, letGo };
}

describe("a data request at an agent", () => {
  test("is not lost to a policy update that comes while the agreement is being read", async (t) => {
    const { ask, context, knowledge, jobName } = await openAgentDoor(t, "VU", { role: "all" });
    const agreements = holdAgreements(knowledge);
    const answer = ask(SUM_QUESTION);
    await eventually(agreements.asked);
    context.live.cancelJob(jobName, new AppError("agreement_gone", "It was revoked meanwhile."));
    agreements.letGo();
    const { status, body } = await answer;
    assert.deepEqual([status, body.code, body.party], [403, "agreement_gone", "VU"]);
    await eventually(() => context.live.count === 0, { describe: "nothing to be left among the live runs" });
  });

  test("for rows needs the agreement's word, before any chain starts", async (t) => {
    const agreement = numbersAgreement("VU", {}, { rawRows: false });
    const { ask } = await openAgentDoor(t, "VU", { role: "all" }, agreement);
    const { status, body } = await ask(ROWS);
    assert.deepEqual([status, body.code, body.party], [403, "operation_denied", "VU"]);
    assert.match(body.detail ?? "", /without an algorithm/);
  });

  test("is refused where nothing in the chain would hold rows back", async (t) => {
    const agreement = numbersAgreement("VU", {}, { rawRows: false });
    const { ask, knowledge } = await openAgentDoor(t, "VU", { role: "all" }, agreement);
    await knowledge.put("requestTypes", {
      name: "sqlDataRequest",
      requiredServices: ["sql-query"],
      optionalServices: {},
    });
    const { status, body } = await ask(SUM_QUESTION);
    assert.deepEqual([status, body.code], [403, "operation_denied"]);
    assert.match(body.detail ?? "", /sql-algorithm/);
    await knowledge.put("agreements", numbersAgreement("VU", {}, { rawRows: true }));
    assert.equal((await ask(SUM_QUESTION)).body.code, "job_start_failed");
  });
});

describe("a third party's own agreement", () => {
  const part = { role: "computeProvider", compute_provider: "SURF" } as const;
  const cases = {
    "without a relation for the user": [{ relations: {} }, {}, "no_relation"],
    "whose time is over": [{}, { validUntil: "2020-01-01T00:00:00Z" }, "relation_not_valid_now"],
    "for other archetypes": [{ archetypes: ["computeToData"] }, {}, "no_archetype_allowed"],
    "for other request types": [{}, { requestTypes: [] }, "request_type_not_allowed"],
  } as const;
  for (const [what, [own, relation, refusal]] of Object.entries(cases)) {
    test(`${what} refuses the request`, async (t) => {
      const agreement = numbersAgreement("SURF", own as never, relation as never);
      const { ask, goOnline } = await openAgentDoor(t, "SURF", part, agreement);
      await goOnline("VU");
      const { status, body } = await ask(SUM_QUESTION);
      assert.deepEqual([status, body.code, body.party, body.refusal], [403, "agreement_gone", "SURF", refusal]);
    });
  }

  test("that names no data set lets it compute all the same, as the planning has it", async (t) => {
    const { ask, goOnline, knowledge } = await openAgentDoor(t, "SURF", part);
    await knowledge.put("agreements", numbersAgreement("SURF", {}, { dataSets: [] }));
    await goOnline("VU");
    assert.equal((await ask(SUM_QUESTION)).body.code, "job_start_failed");
  });

  test("need not exist", async (t) => {
    const { ask, goOnline, knowledge } = await openAgentDoor(t, "SURF", part);
    await knowledge.delete("agreements", "SURF");
    await goOnline("VU");
    const { body } = await ask({ ...SUM_QUESTION, user: ANALYST });
    assert.equal(body.code, "job_start_failed");
  });
});

describe("a chain", () => {
  test("tells each microservice what it needs, and nobody else where the key is", async (t) => {
    const { ask, jobs } = await openAgentDoor(t, "VU", { role: "all" });
    await ask({ ...SUM_QUESTION, options: { anonymize: true } });
    const [job] = jobs;
    const secrets = Object.fromEntries(
      (job?.microservices ?? []).map(({ name, environment }) => [
        name,
        Object.keys(environment).filter((key) => /^DYNAMOS_(DATA|WORLD|QUERY|ANONYMIZATION|LOAD)/.test(key)).length,
      ]),
    );
    assert.deepEqual(secrets, { "sql-query": 8, "sql-anonymize": 1, "sql-algorithm": 0 });
    const containers = job === undefined ? [] : [...job.microservices, job.sidecar];
    for (const { environment } of containers) assert.equal(environment["OTEL_TRACES_SAMPLER"], "always_off");
    assert.equal(job?.sidecar.environment["DYNAMOS_CREDITS"], "16");
  });

  test("leaves nothing of itself in the environment of its chain", async (t) => {
    const { ask, jobs } = await openAgentDoor(t, "VU", { role: "all" });
    await ask(SUM_QUESTION);
    await ask(SUM_QUESTION);
    const [first, second] = jobs.map(({ microservices, sidecar, chain }) => {
      const { DYNAMOS_RUN_NAME: _itsOwnName, ...environment } = sidecar.environment;
      return { chain, environments: [...microservices.map((container) => container.environment), environment] };
    });
    assert.deepEqual(second, first);
    assert.doesNotMatch(JSON.stringify(first), /analyst|numbers|contentHash/);
  });

  test("of a request type with the name of every object's own has no services forced by accident", async (t) => {
    const type = "constructor";
    const agreement = numbersAgreement("VU", {}, { requestTypes: [type] });
    const { ask, jobs, knowledge } = await openAgentDoor(t, "VU", { role: "all", request_type: type }, agreement);
    const services = ["sql-query", "sql-algorithm"];
    await knowledge.put("requestTypes", { name: type, requiredServices: services, optionalServices: {} });
    await knowledge.put("forcedServices", { data_steward: "VU", types: {} });
    assert.equal((await ask({ ...SUM_QUESTION, type })).body.code, "job_start_failed");
    assert.deepEqual(
      jobs[0]?.microservices.map(({ name }) => name),
      services,
    );
  });

  test("is made within the caller's trace", async (t) => {
    const spans = recordSpans(t);
    const { ask } = await openAgentDoor(t, "VU", { role: "all" });
    const traceId = "0af7651916cd43dd8448eb211c80319c";
    await ask(SUM_QUESTION, { traceparent: `00-${traceId}-b7ad6b7169203331-01` });
    assert.ok(spans.some(({ name }) => name === "chain"));
    assert.deepEqual(new Set(spans.map((span) => span.traceId)), new Set([traceId]));
  });
});

/** What spans are begun, each with the trace that it hangs on. */
function recordSpans(t: TestContext): readonly { readonly name: string; readonly traceId: string | undefined }[] {
  const spans: { name: string; traceId: string | undefined }[] = [];
  const tracer: Tracer = {
    startSpan: (name, _options, context = ROOT_CONTEXT) => {
      const parent = trace.getSpanContext(context);
      spans.push({ name, traceId: parent?.traceId });
      return trace.wrapSpanContext(parent ?? INVALID_SPAN_CONTEXT);
    },
    startActiveSpan: () => assert.fail("spans are begun by hand here"),
  };
  trace.setGlobalTracerProvider({ getTracer: () => tracer });
  t.after(() => trace.disable());
  return spans;
}
